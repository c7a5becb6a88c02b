"""Measures the memory of prefill as a function of the prompt's length N, on the CPU, with generation's own programs.

A small Llama with random weights processes N random tokens in four modes, each in a process of its own: the whole
prompt at once, in chunks, in chunks with a sliding window, and with all scores in memory, which is quadratic. The
figure is the peak of resident memory minus that before the run, with weights loaded and programs compiled (Linux
only). For prompts longer than --written-out the last mode is not run; its figure is what the compiled program
allocates.

examples:
  python -m scripts.bench_long_context --lengths 1024 4096
  python -m scripts.bench_long_context --plot long_context_memory.png     half an hour on 2 cores
"""

import argparse
import ctypes
import gc
import multiprocessing
import re
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from jaxllm.checks import whole_number
from jaxllm.config import (
    AttentionConfig,
    BlockConfig,
    DecoderConfig,
    FeedForwardConfig,
    RMSNormConfig,
    RotaryConfig,
    StackConfig,
)
from jaxllm.errors import InputError
from jaxllm.generation.decode import new_cache, prefill_chunk
from jaxllm.kernels import attention
from jaxllm.models.abstract import abstract
from jaxllm.models.decoder import Decoder
from scripts.command_line import exit_on_error
from scripts.plotting import png_axes, require_plotting

DTYPE = "float32"
CHUNK_SIZE = 2048
WINDOW = 1024
NUM_LAYERS = 4
COLOURS = ("tab:blue", "tab:green", "tab:olive", "tab:red")  # of the modes
LENGTHS = tuple(1024 << i for i in range(8))  # to 131,072


class PrefillMode(NamedTuple):
    """A way to process a prompt: its label, chunk size (None for the whole prompt), window and attention kernel."""

    label: str
    chunk_size: int | None = None
    window: int | None = None
    kernel: str | None = None


PREFILL_MODES = {
    "whole": PrefillMode("whole"),
    "chunked": PrefillMode(f"in chunks of {CHUNK_SIZE:,}", CHUNK_SIZE),
    "windowed": PrefillMode(f"... with a window of {WINDOW:,}", CHUNK_SIZE, WINDOW),
    "quadratic": PrefillMode("all scores written out", kernel="reference"),
}


class Measurement(NamedTuple):
    """Peak memory and cache of the prefill of `length` tokens, in bytes, and its seconds; None if it was not run."""

    mode: str
    length: int
    peak_bytes: int
    cache_bytes: int
    seconds: float | None


class PrefillPrograms(NamedTuple):
    """The compiled programs that create a cache and process the first and each later chunk; the shapes of the cache."""

    new_cache: Any
    first_chunk: Any
    next_chunk: Any
    cache_shapes: Any


def small_config(num_layers: int, window: int | None) -> DecoderConfig:
    """Returns a config with D 256, 4 heads of 64 that share 2 key-value heads, F 768, V 1024."""
    heads = AttentionConfig(4, 2, 64, scale=0.125, position=RotaryConfig(500_000.0), window=window)
    norm = RMSNormConfig(1e-5)
    block = BlockConfig(heads, FeedForwardConfig(768, "silu", gated=True), pre_norm=norm)
    return DecoderConfig(
        1024, 256, StackConfig(num_layers, (block,)), norm, max_position_embeddings=1 << 20, tie_word_embeddings=True
    )


def compile_programs(mode: PrefillMode, length: int, num_layers: int) -> PrefillPrograms:
    """Compiles the programs for a prompt of N tokens, with a cache of N positions."""
    model = abstract(small_config(num_layers, mode.window), DTYPE)
    width = min(mode.chunk_size or length, length)
    tokens, lengths = (jax.ShapeDtypeStruct(shape, "int32") for shape in ((1, width), (1,)))
    cache = jax.eval_shape(partial(new_cache, batch=1, capacity=length), model)
    following = jax.eval_shape(prefill_chunk, model, cache, None, tokens, lengths)
    first = prefill_chunk.lower(model, cache, None, tokens, lengths).compile()
    then = first if width == length else prefill_chunk.lower(model, *following, tokens, lengths).compile()
    return PrefillPrograms(new_cache.lower(model, batch=1, capacity=length).compile(), first, then, cache)


def measure(mode_name: str, length: int, num_layers: int = NUM_LAYERS, execute: bool = True) -> Measurement:
    """Measures the prefill of N tokens in this process; without `execute`, what its programs would allocate."""
    mode = PREFILL_MODES[mode_name]
    if mode.kernel:
        attention.select_kernel = lambda *_: attention.KernelChoice(str(mode.kernel), "asked for")
    compiled_programs = compile_programs(mode, length, num_layers)
    cache = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(compiled_programs.cache_shapes))
    if not execute:
        return Measurement(
            mode_name, length, compiled_programs.next_chunk.memory_analysis().temp_size_in_bytes + cache, cache, None
        )
    model = jax.jit(lambda: Decoder(small_config(num_layers, mode.window), rngs=nnx.Rngs(0), dtype=DTYPE))()
    tokens = np.random.default_rng(0).integers(0, 1024, (1, length), np.int32)
    peak, seconds = measure_memory(partial(prefill_prompt, compiled_programs, model, tokens, mode.chunk_size or length))
    return Measurement(mode_name, length, peak, cache, seconds)


def prefill_prompt(programs: PrefillPrograms, model: Decoder, tokens: np.ndarray, chunk_size: int) -> None:
    """The whole prompt [1 N], so many tokens at a time."""
    lengths = np.array([tokens.shape[1]], np.int32)
    cache = programs.new_cache(model)
    last = None
    for start in range(0, tokens.shape[1], chunk_size):
        program = programs.next_chunk if start else programs.first_chunk
        cache, last = program(model, cache, last, tokens[:, start : start + chunk_size], lengths)
    jax.block_until_ready((cache, last))


def measure_memory(function: Callable[[], None]) -> tuple[int, float]:
    """The most bytes of resident memory that some work takes on top of what there was, and its seconds."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or what compiling took and freed would be taken again, and not be seen
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what there is
    before = resident_bytes("VmRSS")
    began = time.perf_counter()
    function()
    return resident_bytes("VmHWM") - before, time.perf_counter() - began


def resident_bytes(field: str) -> int:
    """Returns a memory value of this process in bytes: VmRSS, or its peak, VmHWM."""
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


def measure_in_subprocess(*arguments: Any) -> Measurement:
    """Runs `measure` in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(measure, *arguments).result()


def describe_growth(measurements: Sequence[Measurement]) -> str:
    """Describes how memory grows: as a power of N, by least squares, and between the two longest prompts."""
    lengths = np.array([row.length for row in measurements])
    peaks = np.array([row.peak_bytes for row in measurements])
    power = np.polyfit(np.log(lengths), np.log(peaks), 1)[0]
    last = lengths[-1] - lengths[-2]
    return f"N^{power:.2f}; {(peaks[-1] - peaks[-2]) / last:,.0f} bytes for each of the last {last:,} tokens"


def markdown_table(measurements: Sequence[Measurement]) -> str:
    """Formats the rows as a Markdown table."""
    by = {(row.mode, row.length): row for row in measurements}
    header = ["tokens", "the cache alone", *(mode.label for mode in PREFILL_MODES.values())]
    lines = [header, ["---:"] * len(header)]
    for length in sorted({row.length for row in measurements}):
        rows = [by[mode, length] for mode in PREFILL_MODES]
        lines.append([f"{length:,}", f"{by['chunked', length].cache_bytes / 1e6:,.0f} MB", *map(format_cell, rows)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def format_cell(measurement: Measurement) -> str:
    size = f"{measurement.peak_bytes / 1e6:,.0f} MB"
    if measurement.seconds is None:
        return f"*{size}, computed*"
    return f"{size}, {measurement.seconds:,.1f} s"


def draw(measurements: Sequence[Measurement], path: Path) -> None:
    """Draws memory over N, both logarithmic. Computed values have hollow markers."""
    with png_axes(path, 8, 5) as plot:
        for (name, mode), colour in zip(PREFILL_MODES.items(), COLOURS, strict=True):
            rows = [row for row in measurements if row.mode == name]
            line = ([row.length for row in rows], [row.peak_bytes / 1e6 for row in rows])
            plot.loglog(*line, color=colour, label=mode.label)
            for row in rows:
                fill = "full" if row.seconds else "none"
                plot.plot(row.length, row.peak_bytes / 1e6, "o", color=colour, fillstyle=fill)
        rows = [row for row in measurements if row.mode == "chunked"]
        lengths = [row.length for row in rows]
        plot.loglog(lengths, [row.cache_bytes / 1e6 for row in rows], "k:", label="the cache alone")
        plot.set_xscale("log", base=2)
        plot.set_xticks(lengths, [f"{length:,}" for length in lengths])
        plot.set(xlabel="tokens of the prompt", ylabel="MB on top of weights and programs")
        plot.set_title("Memory of prefill on the CPU (hollow: computed, not run)")
        plot.grid(alpha=0.3)
        plot.legend()


@exit_on_error("bench_long_context")
def main(argv: Sequence[str] | None = None) -> None:
    summary, _, details = (__doc__ or "").partition("\n")
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=summary, epilog=details.strip(), formatter_class=raw)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, metavar="N", help="powers of two")
    parser.add_argument("--layers", type=int, default=NUM_LAYERS, help=f"of the model ({NUM_LAYERS})")
    parser.add_argument("--written-out", type=int, default=8192, metavar="N", help="the most scores to compute (8192)")
    parser.add_argument("--plot", type=Path, help="a PNG file to draw into")
    arguments = parser.parse_args(argv)
    if arguments.plot:
        require_plotting(arguments.plot)
    if odd := [length for length in arguments.lengths if whole_number("lengths", length, min_value=1) & (length - 1)]:
        raise InputError(f"lengths={odd[0]}: must be a power of two")
    measurements = []
    for length in arguments.lengths:
        for name, mode in PREFILL_MODES.items():
            execute = mode.kernel is None or length <= arguments.written_out
            measurements.append(measure_in_subprocess(name, length, arguments.layers, execute))
            print(f"{length:,} tokens, {name}: {format_cell(measurements[-1])}", file=sys.stderr, flush=True)
    print(f"JAX {jax.__version__}, {DTYPE}, {arguments.layers} layers\n\n{markdown_table(measurements)}\n", flush=True)
    for name in PREFILL_MODES:
        rows = [row for row in measurements if row.mode == name and row.seconds is not None]
        if len(rows) > 1:
            print(f"{name}: {describe_growth(rows)}")
    if arguments.plot:
        draw(measurements, arguments.plot)


if __name__ == "__main__":
    try:
        main()
    except BrokenProcessPool as error:
        sys.exit(f"bench_long_context: {error}")
