"""Attention's speed on the device that is here, beside what a plain large matmul and a plain copy reach on it.

Ours (the kernels for this platform, and blockwise), cuDNN's and XLA's, in turn. Each is compared first with attention
in float32, itself compared with the reference; a wrong one is printed as wrong, and never as fast. Rates are by the
median: TFLOP/s of what a causal mask or a window leaves, GB/s of keys and values, each read once. Ours read keys and
values as caches store them, head by head, theirs position by position, as they expect them.

examples:
  python -m scripts.bench_attention                       small sizes on a CPU, published models' elsewhere
  python -m scripts.bench_attention --only "prefill 16384" --rounds 9
  python -m scripts.bench_attention --sweep blockwise --only "prefill 512"
  python -m scripts.bench_attention --output benchmarks/attention-h200.json
"""

import argparse
import json
import math
import platform
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.checks import whole_number
from jaxllm.errors import InputError
from jaxllm.kernels.blockwise import blockwise
from jaxllm.kernels.cases import DTYPES
from jaxllm.kernels.reference import reference
from jaxllm.version import __version__
from scripts.attention_programs import LONG, SMALL, SWEEPS, Call, Implementation, implementations, ours
from scripts.command_line import exit_on_error, require_writable
from scripts.timing import interleaved, sampler

FLOAT32 = 1e-5  # of a row's largest value: what sums in float32 in another order may differ by
UNITS = {"TFLOP/s": "matmul", "GB/s": "copy"}
DRIVER = Path("/proc/driver/nvidia/version")

Row = dict[str, Any]


def bench(
    call: Call, dtype: str, tried: dict[str, Implementation], peaks: dict[str, float], rounds: int, least: float
) -> list[Row]:
    """Returns one row for each implementation: its rate, or the reason why it has none."""
    query, key, value, offsets = call.arguments(dtype)
    by_position = query, jnp.copy(key.swapaxes(1, 2)), jnp.copy(value.swapaxes(1, 2)), offsets
    arguments = {True: (query, key, value, offsets), False: by_position}
    right, bound = expected(call, dtype, arguments[True])
    rows = list[Row]()
    samplers = dict[str, Callable[[], float]]()
    for name, (make, stored) in tried.items():
        row: Row = {"call": call.name, "implementation": name, "bound": bound}
        rows.append(row)
        try:
            off = error(jax.jit(make(call))(*arguments[stored]), right)
            row |= {"status": "ok" if off <= bound else "wrong", "error": off if math.isfinite(off) else None}
            if row["status"] == "ok":
                samplers[name] = sampler(make(call), arguments[stored], least)
        except Exception as raised:  # whatever lowering, compiling or running may raise
            row |= failure(raised)
    taken = interleaved(samplers, rounds)
    (work, unit) = call.work(jnp.dtype(dtype).itemsize)
    for row in rows:
        if row["status"] == "ok":
            seconds = taken[row["implementation"]]
            rate = work / seconds.median
            row |= {"seconds": seconds._asdict(), "rate": rate, "unit": unit, "fraction": rate / peaks[unit]}
    return rows


def failure(raised: Exception) -> Row:
    """Describes an exception in one line."""
    return {"status": "failed", "reason": f"{type(raised).__name__}: {' '.join(str(raised).split())[:160]}"}


def expected(call: Call, dtype: str, arguments: tuple[jax.Array, ...]) -> tuple[jax.Array, float]:
    """Returns attention [B T N H] in float32, and the allowed error of a dtype relative to a row's largest value.

    It is twice what blockwise attention in that dtype is off by, as long as that is a matter of rounding.

    Raises:
      ValueError: blockwise attention in float32 differs from the reference, if the reference fits into memory.
    """
    program = ours(blockwise).program
    with jax.default_matmul_precision("highest"):
        little = replace(call, batch=1, queries=min(call.queries, 512), keys=min(call.keys, 512))
        tiny = little.arguments("float32")
        off = error(jax.jit(program(little))(*tiny), jax.jit(ours(reference).program(little))(*tiny))
        if not off <= FLOAT32:
            raise ValueError(f"blockwise attention in float32 differs from the reference by {off:.1e}")
        right = jax.jit(program(call))(arguments[0].astype(jnp.float32), *arguments[1:])
    coarse = error(jax.jit(program(call))(*arguments), right)
    return right, max(FLOAT32, min(2 * coarse, 8 * float(jnp.finfo(dtype).eps)))


@jax.jit
def _error(found: jax.Array, right: jax.Array) -> jax.Array:
    return (jnp.abs(found - right).max(axis=-1) / jnp.abs(right).max(axis=-1)).max()


def error(found: jax.Array, right: jax.Array) -> float:
    """The largest difference of a value, over the largest value of its query: late queries mix many, and are small."""
    return float(_error(found, right))


def measured_peaks(dtype: str, small: bool, rounds: int, least: float) -> dict[str, float]:
    """Measures the rates of a large matmul, in TFLOP/s, and of a copy, in GB/s."""
    size, count = (1024, 1 << 24) if small else (8192, 1 << 29)
    left, right = (jax.random.normal(jax.random.key(seed), (size, size), dtype) / size**0.5 for seed in (0, 1))
    copied = jnp.ones(count, dtype)
    samplers = {"TFLOP/s": sampler(jnp.matmul, (left, right), least), "GB/s": sampler(jnp.negative, (copied,), least)}
    taken = interleaved(samplers, rounds)
    return {"TFLOP/s": 2e-12 * size**3 / taken["TFLOP/s"].best, "GB/s": 2e-9 * copied.nbytes / taken["GB/s"].best}


def results(arguments: argparse.Namespace, dtype: str, peaks: dict[str, float], sizes: str) -> Iterator[Row]:
    """Rows of all calls that are asked for."""
    rounds = arguments.rounds
    least = LEAST[sizes]
    tried = SWEEPS[arguments.sweep].implementations() if arguments.sweep else implementations()
    for call in CALLS[sizes]:
        if arguments.only not in call.name:
            continue
        try:
            rows = bench(call, dtype, tried, peaks, rounds, least)
        except Exception as raised:  # too large for this device, or not checked
            rows = [{"call": call.name, "implementation": "all", **failure(raised)}]
        yield from sorted(rows, key=lambda row: -row.get("rate", 0)) if arguments.sweep else rows


def line(row: Row) -> str:
    """Formats a row for printing."""
    if row["status"] == "failed":
        said = f"failed: {row['reason']}"
    elif row["status"] == "wrong":
        said = f"WRONG: off by {row['error'] or math.inf:.1e}, and may be by {row['bound']:.1e}"
    else:
        said = f"{row['rate']:8.4g} {row['unit']:7} {row['fraction']:6.1%}   {row['seconds']['median'] * 1e3:10.3f} ms"
    return f"{row['call']:52} {row['implementation']:24} {said}"


def installation() -> Row:
    """Returns the device and versions that the results hold for."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": " ".join(device.client.platform_version.split()),
        "driver": DRIVER.read_text().splitlines()[0] if DRIVER.exists() else None,
        "versions": {"jaxllm": __version__, "jax": jax.__version__, "jaxlib": version("jaxlib")},
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
    }


CALLS = {"small": SMALL, "full": LONG}
LEAST = {"small": 0.02, "full": 0.2}  # seconds of a sample


@exit_on_error("bench_attention")
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action=argparse.BooleanOptionalAction, help="small sizes (default: on a CPU)")
    parser.add_argument("--dtype", choices=DTYPES, help="default: float32 on a CPU, bfloat16 elsewhere")
    parser.add_argument("--only", default="", metavar="TEXT", help="calls that have this in their name")
    parser.add_argument("--rounds", type=int, default=5, help="samples of each implementation, taken in turn (5)")
    parser.add_argument("--sweep", choices=SWEEPS, help="instead: one kernel, with every combination of its tiles")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to write the results too, as JSON")
    arguments = parser.parse_args(argv)
    whole_number("rounds", arguments.rounds, min_value=1)
    if arguments.output:
        require_writable(arguments.output)
    cpu = jax.default_backend() == "cpu"
    sizes = "small"
    if not cpu if arguments.small is None else arguments.small:
        sizes = "full"
    if not any(arguments.only in call.name for call in CALLS[sizes]):
        raise InputError(f"only={arguments.only!r}: is in no name of {', '.join(call.name for call in CALLS[sizes])}")
    dtype = arguments.dtype or ("float32" if cpu else "bfloat16")
    peaks = measured_peaks(dtype, sizes == "small", arguments.rounds, LEAST[sizes])
    here = installation()
    told = ", ".join(f"{peaks[unit]:.4g} {unit} by a {what}" for unit, what in UNITS.items())
    print(f"{here['device']}, JAX {jax.__version__}, {dtype}: {told}", flush=True)
    rows = []
    for row in results(arguments, dtype, peaks, sizes):
        rows.append(row)
        print(line(row), flush=True)
    if arguments.output:
        document = {**here, "dtype": dtype, "sizes": sizes, "peaks": peaks, "rows": rows}
        arguments.output.write_text(json.dumps(document, indent=1) + "\n")
    if any(row["status"] == "wrong" for row in rows):
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
