"""What a compiler makes of prefill and decode on devices that are not here: bytes of each, beside those of the plan.

Programs are compiled for TPU topologies (libtpu can, on a machine without a TPU), and lowered for CUDA devices.

examples:
  python -m scripts.compile_topology llama-2-70b --topology v5e:4x4 --mesh stage=2,tensor=8 --prompt 2048
  python -m scripts.compile_topology llama-2-70b --topology v5e:2x2 --mesh tensor=1 --prompt 128 --offload
  python -m scripts.compile_topology llama-2-70b --topology cuda:8 --mesh tensor=8 --kernels flash_gpu --json
"""

import argparse
import json
import math
import os
import re
import time
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
from jax.stages import Lowered

from conversion.describe import describe
from jaxllm.checks import whole_number
from jaxllm.cli.common import parse_mesh
from jaxllm.config import DecoderConfig
from jaxllm.errors import InputError
from jaxllm.kernels.attention import KERNELS
from jaxllm.kernels.call import Device
from jaxllm.kernels.target import Target
from jaxllm.planning.activations import activation_bytes
from jaxllm.planning.memory import cache_bytes, format_bytes, model_bytes, weight_bytes
from jaxllm.planning.mesh import MeshShape
from jaxllm.planning.programs import programs
from jaxllm.planning.weights import COMPUTE_DTYPES, weights
from scripts.command_line import exit_on_error

# libtpu is to mind no other process that has it, and to neither ask nor complain that this machine is no TPU.
_NO_TPU = {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1"}
_NO_TPU |= {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-1"}
_COLLECTIVE = re.compile(r"= \(?(\w+\[[\d,]*\]).*? (all-\w+|reduce-scatter|collective-permute)(?:-start)?\(")


PROGRAMS = ("prefill", "decode")


class Bytes(NamedTuple):
    """Of one device, and in its host's memory: what a program reads, holds meanwhile and returns, and all at its most.

    Of what is returned, the cache is written over the one that was read.
    """

    arguments: float
    host_arguments: float
    temporaries: float
    output: float
    peak: float


class Compiled(NamedTuple):
    """A program as its compiler has it: bytes, seconds that it took, and its collectives: kind, shape, how many."""

    bytes: Bytes
    seconds: float
    collectives: list[tuple[str, str, int]]


def devices_of(topology: str) -> list[Any]:
    """The devices of `KIND:SHAPE`, as in v5e:4x4; for `cuda:N` that many placeholders.

    Raises:
      InputError: no such topology, or no compiler for it.
    """
    if re.fullmatch(r"cuda:[1-9]\d{0,3}", topology):
        jax.config.update("jax_num_cpu_devices", int(topology.removeprefix("cuda:")))
        return jax.devices("cpu")
    if find_spec("libtpu") is None:
        raise InputError(f"topology {topology}: libtpu, which compiles for it, is not installed: pip install libtpu")
    os.environ.update(_NO_TPU)
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(topology or "none", "tpu").devices)
    except jax.errors.JaxRuntimeError as error:
        raise InputError(f"topology {topology}: {_line(error)}") from None


def compiled(lowered: Lowered) -> Compiled:
    """Returns a program compiled for the devices that it was lowered for.

    Raises:
      InputError: they have too little memory for it.
    """
    began = time.perf_counter()
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise InputError(f"the devices' memory is too small: {_line(error)}") from None
    seconds = time.perf_counter() - began
    found = program.memory_analysis()
    kinds = ("argument_size", "host_argument_size", "temp_size", "output_size", "peak_memory")
    arguments, host, temporaries, output, peak = (getattr(found, f"{kind}_in_bytes") for kind in kinds)
    measured = Bytes(arguments, host, temporaries, output, peak - host)
    return Compiled(measured, seconds, collectives(program.as_text() or ""))


def collectives(text: str) -> list[tuple[str, str, int]]:
    """The collectives of a compiled program: kind, shape and how many of it, the largest first."""
    found = Counter((kind, shape) for shape, kind in _COLLECTIVE.findall(text))
    return [(*each, found[each]) for each in sorted(found, key=lambda each: (-_elements(each[1]), each))]


def planned(config: DecoderConfig, stored: str, mesh: Any, rows: tuple[int, int, int], offload: bool) -> list[Bytes]:
    """Returns what `jaxllm.planning` predicts for prefill and decode, for rows of (batch, prompt, capacity)."""
    batch, prompt, capacity = rows
    kinds = weights(config, stored, mesh.shape["stage"])
    host = offload * sum(weight_bytes(w, stored, mesh) * count for w, count in kinds if w.stack is not None)
    here = model_bytes(config, stored, mesh) - host
    cache = cache_bytes(config, stored, mesh, batch, capacity)
    held = [activation_bytes(config, stored, mesh, batch, time, capacity, offload) for time in (prompt, 1)]
    return [Bytes(here + cache, host, at_once, cache, here + cache + at_once) for at_once in held]


def print_table(plans: list[Bytes], found: list[Compiled]) -> None:
    """The bytes of each program on stdout, as planned and, where it was compiled, as they are."""
    from rich.console import Console
    from rich.table import Table

    table = Table("per device", box=None)
    columns = []
    for i, name in enumerate(PROGRAMS):
        columns += [
            (f"{name}, planned", plans[i]),
            *((f"{name}, compiled", program.bytes) for program in found[i : i + 1]),
        ]
    for name, _ in columns:
        table.add_column(name, justify="right")
    for i, field in enumerate(Bytes._fields):
        table.add_row(field.replace("_", " "), *(format_bytes(sizes[i]) for _, sizes in columns))
    Console().print(table)
    for name, program in zip(PROGRAMS, found, strict=False):
        print(f"{name}: compiled in {program.seconds:.0f} s; {_sent(program)}")


def _sent(program: Compiled) -> str:
    """Describes the collectives: how many there are of each kind, and the largest shape of each kind."""
    kinds = list(dict.fromkeys(kind for kind, _, _ in program.collectives))
    of = {kind: [(shape, count) for other, shape, count in program.collectives if other == kind] for kind in kinds}
    said = (f"{sum(count for _, count in of[kind])} {kind}, at most {of[kind][0][0]}" for kind in kinds)
    return "; ".join(said) or "nothing is sent"


def _elements(shape: str) -> int:
    return math.prod(map(int, re.findall(r"\d+", shape.partition("[")[2])))


def _line(error: Exception) -> str:
    return str(error).splitlines()[0].strip()


def target(kernels: Sequence[str], device: Device) -> Target:
    """The device, as one on which kernels are validated.

    Raises:
      InputError: there is no such kernel for it.
    """
    there = [name for name, kernel in KERNELS.items() if kernel.platform == device.platform]
    if unknown := set(kernels) - set(there):
        raise InputError(f"--kernels {min(unknown)}: for {device.platform} there are {', '.join(there)}")
    return Target(device, frozenset(kernels))


def parsed() -> argparse.Namespace:
    """The arguments."""
    summary, _, details = (__doc__ or "").partition("\n")
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=summary, epilog=details.strip(), formatter_class=raw)
    parser.add_argument("model", help="a published model's name, a checkpoint or a repository")
    parser.add_argument("--topology", required=True, help="the devices: v5e:4x4, v5p:2x2x2, v6e:2x4, ..., or cuda:N")
    parser.add_argument("--mesh", default="tensor=-1", metavar="AXIS=N[,...]", help="default: tensor=-1, all of them")
    parser.add_argument("--batch", type=int, default=1, help="rows at a time (1)")
    parser.add_argument("--prompt", type=int, default=2048, help="tokens that are read at once (2048)")
    parser.add_argument("--context", type=int, default=4096, help="positions that the cache has room for (4096)")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16", "float16"))
    parser.add_argument(
        "--kernels",
        type=lambda text: text.split(","),
        default=[],
        metavar="NAME[,...]",
        help="attention by: flash_tpu, ...",
    )
    parser.add_argument("--offload", action="store_true", help="layers stay in host memory")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> None:
    """Compiles or lowers the programs and prints the results."""
    batch, prompt = (whole_number(name, getattr(arguments, name), min_value=1) for name in ("batch", "prompt"))
    rows = batch, prompt, whole_number("context", arguments.context, min_value=prompt)
    devices = devices_of(arguments.topology)
    cuda = arguments.topology.startswith("cuda:")
    mesh = parse_mesh(arguments.mesh, devices)
    mesh_text = str(MeshShape(dict(mesh.shape)))
    model, config, _ = describe(arguments.model)
    stored = arguments.dtype
    offload = arguments.offload
    platform = "cuda"
    if not cuda:
        platform = None
    kernel_target = target(arguments.kernels, Device("cuda", "", 9.0) if cuda else Device.of(devices[0]))
    lowered = programs(
        config, COMPUTE_DTYPES[stored], mesh, *rows, offload=offload, platform=platform, target=kernel_target
    )
    found = [] if cuda else [compiled(program) for program in lowered]
    plans = planned(config, stored, mesh, rows, offload)
    if arguments.json:
        plain = [{**program._asdict(), "bytes": program.bytes._asdict()} for program in found]
        facts = {"model": model, "mesh": mesh_text, "jax": jax.__version__}
        facts |= {"planned": [plan._asdict() for plan in plans], "compiled": plain}
        return print(json.dumps(vars(arguments) | facts))
    kind = "CUDA devices, lowered but not compiled"
    if not cuda:
        kind = devices[0].device_kind
    print(f"{model} in {stored} on {mesh.size} x {kind}, mesh {mesh_text}")
    print(f"for {rows[0]} x {rows[1]:,} tokens, with room for {rows[2]:,}{', layers in host memory' * offload}")
    return print_table(plans, found)


@exit_on_error("compile_topology")
def main() -> None:
    jax.config.update("jax_platforms", "cpu")  # programs run nowhere
    run(parsed())


if __name__ == "__main__":
    main()
