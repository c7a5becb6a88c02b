"""Memory and speed of converting and restoring checkpoints, of sizes that are asked for.

A random checkpoint is written to a temporary folder, converted, and restored on each mesh, every step in a process
of its own whose anonymous memory is sampled: what the kernel cannot drop, unlike the pages of a mapped file.

examples:
  python -m scripts.bench_checkpoint
  python -m scripts.bench_checkpoint --gigabytes 0.75 1.5 3 6 --meshes
  python -m scripts.bench_checkpoint --kind mixtral --dtype float32 --json
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from conversion.architectures import architecture
from conversion.binding import Binding, bind
from conversion.config_reader import ConfigReader
from conversion.files import Tensor
from conversion.safetensor_files import write_safetensors
from jaxllm.models.abstract import abstract

_LLAMA = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "num_hidden_layers": 2,
}
KINDS = {  # plain weights, fused and transposed ones, experts to be stacked
    "llama": _LLAMA,
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": 2048,
        "n_head": 16,
        "vocab_size": 50257,
        "n_layer": 2,
    },  # fused, transposed
    "mixtral": _LLAMA | {"model_type": "mixtral", "intermediate_size": 2048, "num_local_experts": 64},
}
MESHES = ("tensor=1", "tensor=8", "fsdp=4,tensor=2")
SHARD_BYTES = 2 * 10**9


def sized(kind: str, gigabytes: float, dtype: str) -> dict[str, Any]:
    """The config of a model of about that size, by the number of its layers."""
    config = dict(KINDS[kind])
    itemsize = np.dtype(dtype).itemsize
    layers = next(key for key in ("num_hidden_layers", "n_layer") if key in config)
    one, two = (sum(map(_elements, _bindings(config | {layers: count}))) * itemsize for count in (1, 2))
    return config | {layers: max(1, round((gigabytes * 1e9 - one) / (two - one)) + 1)}


def write_source(path: Path, config: dict[str, Any], dtype: str) -> int:
    """Writes a checkpoint of repeated random weights in several shards, and returns its bytes."""
    block = np.random.default_rng(0).standard_normal(1 << 22, np.float32).astype(dtype)
    shards: list[dict[str, Tensor]] = [{}]
    for binding in _bindings(config):
        for name in binding.sources:
            if sum(held.nbytes for held in shards[-1].values()) > SHARD_BYTES:
                shards.append({})
            shape = binding.source_shape
            shards[-1][name] = Tensor(shape, block.dtype, partial(np.resize, block, shape), path)
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    files = {f"model-{i:05}-of-{len(shards):05}.safetensors": shard for i, shard in enumerate(shards, 1)}
    for file, shard in files.items():
        write_safetensors(path / file, shard, lambda count: None)
    weight_map = {name: file for file, shard in files.items() for name in shard}
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return sum(tensor.nbytes for shard in shards for tensor in shard.values())


def _bindings(config: dict[str, Any]) -> list[Binding]:
    reader = ConfigReader(config)
    module = architecture(reader.take("model_type"))
    return list(bind(module.table.rows, abstract(module.from_hf(reader))))


def _elements(binding: Binding) -> int:
    return math.prod(binding.source_shape) * len(binding.sources)


CONVERT = """
import sys, time, conversion
source, target, dtype = sys.argv[1:]
print(time.perf_counter(), flush=True)
conversion.convert(source, target, dtype or None)
print(time.perf_counter())
"""
RESTORE = """
import math, sys, time, jax
path, axes = sys.argv[1], {name: int(extent) for name, extent in (axis.split("=") for axis in sys.argv[2].split(","))}
jax.config.update("jax_num_cpu_devices", math.prod(axes.values()))
import pathlib, jaxllm, jaxllm.checkpoint
mesh = jaxllm.make_mesh(**{"tensor": 1, **axes})
print(time.perf_counter(), flush=True)
model = jaxllm.checkpoint.restore(pathlib.Path(path), mesh)
print(time.perf_counter())
"""


class ProcessMeasurement(NamedTuple):
    """The seconds that a program's work took, and anonymous memory in bytes: before it, and at most."""

    seconds: float
    before: int
    peak: int


def measured(program: str, *arguments: Any) -> ProcessMeasurement:
    """Runs a program that prints the time before its work and after it."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        began = process.stdout.readline()
        before = peak = anonymous_bytes(process.pid)
        while process.poll() is None:
            peak = max(peak, anonymous_bytes(process.pid))
            time.sleep(0.002)
        ended = process.stdout.readline()
    if process.returncode:
        raise SystemExit(f"{command} failed")
    return ProcessMeasurement(float(ended) - float(began), before, peak)


def anonymous_bytes(pid: int) -> int:
    """The anonymous memory of a process, 0 if it is gone (Linux only)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0)


def bench(arguments: argparse.Namespace, gigabytes: float) -> Iterator[dict[str, Any]]:
    """Yields one row for each step with a checkpoint of one size."""
    with tempfile.TemporaryDirectory(dir=arguments.dir) as work:
        source = Path(work) / "source"
        native = Path(work) / "native"
        nbytes = write_source(source, sized(arguments.kind, gigabytes, arguments.dtype), arguments.dtype)
        yield _row("convert", nbytes, measured(CONVERT, source, native, arguments.to or ""))
        shutil.rmtree(source)
        for mesh in arguments.meshes:
            yield _row(f"restore {mesh}", nbytes, measured(RESTORE, native, mesh))


def _row(step: str, nbytes: int, found: ProcessMeasurement) -> dict[str, Any]:
    return {"step": step, "checkpoint_bytes": nbytes, **found._asdict()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1.5], help="sizes of the checkpoint")
    parser.add_argument("--kind", choices=KINDS, default="llama", help="what it is like (default: llama)")
    parser.add_argument("--dtype", default="bfloat16", help="of the weights (default: bfloat16)")
    parser.add_argument("--to", metavar="DTYPE", help="what to convert them to (default: as they come)")
    parser.add_argument("--meshes", nargs="*", default=MESHES, help=f"to restore on (default: {' '.join(MESHES)})")
    parser.add_argument("--dir", help="where to work (default: the system's temporary folder)")
    parser.add_argument("--json", action="store_true", help="print JSON, a line for each step")
    arguments = parser.parse_args()
    for gigabytes in arguments.gigabytes:
        for row in bench(arguments, gigabytes):
            if arguments.json:
                print(json.dumps(row), flush=True)
                continue
            nbytes = row["checkpoint_bytes"]
            peak = row["peak"]
            print(
                f"{row['step']:24} {nbytes / 1e9:6.2f} GB   peak {peak / 1e9:5.2f} GB ({peak / nbytes:4.2f}x)   "
                f"{nbytes / 1e6 / row['seconds']:7,.0f} MB/s",
                flush=True,
            )


if __name__ == "__main__":
    main()
