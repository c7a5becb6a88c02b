"""Memory of reading a prompt over its length N, on the CPU, by the programs that generation runs.

A small model of random weights, shaped like Llama's, reads N random tokens in four ways, each in a process of its own:
whole and in chunks, in chunks through a window, and with all scores written out, which is what is quadratic. What
counts is resident memory at its peak over what it was before, with weights loaded and programs compiled (Linux only).
Scores of more tokens than --written-out are not computed; that column is then what the compiled program allocates.

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
from scripts.command import mistakes
from scripts.pictures import axes, require_drawing

DTYPE = "float32"
CHUNK = 2048
WINDOW = 1024
LAYERS = 4
LENGTHS = tuple(1024 << i for i in range(8))  # to 131,072


class Way(NamedTuple):
    """How a prompt is read: what that is called, how many tokens at a time (None: all), the window, the kernel."""

    label: str
    chunk: int | None = None
    window: int | None = None
    kernel: str | None = None


WAYS = {
    "whole": Way("whole"),
    "chunked": Way(f"in chunks of {CHUNK:,}", CHUNK),
    "windowed": Way(f"... with a window of {WINDOW:,}", CHUNK, WINDOW),
    "quadratic": Way("all scores written out", kernel="reference"),
}


class Measured(NamedTuple):
    """What reading N tokens took, in bytes: at its peak, of which for the cache; no seconds where nothing was run."""

    way: str
    length: int
    peak: int
    cache: int
    seconds: float | None


class Programs(NamedTuple):
    """What reads a prompt: an empty cache, the first tokens, those that follow; and its shapes, of which the cache."""

    begin: Any
    first: Any
    then: Any
    cache: Any


def small(layers: int, window: int | None) -> DecoderConfig:
    """D 256, 4 heads of 64 that share 2 key-value heads, F 768, V 1024."""
    heads = AttentionConfig(4, 2, 64, scale=0.125, position=RotaryConfig(500_000.0), window=window)
    norm = RMSNormConfig(1e-5)
    block = BlockConfig(heads, FeedForwardConfig(768, "silu", gated=True), pre_norm=norm)
    return DecoderConfig(
        1024, 256, StackConfig(layers, (block,)), norm, max_position_embeddings=1 << 20, tie_word_embeddings=True
    )


def programs(way: Way, length: int, layers: int) -> Programs:
    """Compiled for a prompt of N tokens in a cache of just that many positions."""
    model = abstract(small(layers, way.window), DTYPE)
    width = min(way.chunk or length, length)
    tokens, lengths = (jax.ShapeDtypeStruct(shape, "int32") for shape in ((1, width), (1,)))
    cache = jax.eval_shape(partial(new_cache, batch=1, capacity=length), model)
    following = jax.eval_shape(prefill_chunk, model, cache, None, tokens, lengths)
    first = prefill_chunk.lower(model, cache, None, tokens, lengths).compile()
    then = first if width == length else prefill_chunk.lower(model, *following, tokens, lengths).compile()
    return Programs(new_cache.lower(model, batch=1, capacity=length).compile(), first, then, cache)


def measure(name: str, length: int, layers: int = LAYERS, run: bool = True) -> Measured:
    """Reads N tokens in one of the ways; without `run`, what its programs would allocate. For a process of its own."""
    way = WAYS[name]
    if way.kernel:
        attention.select_kernel = lambda *_: attention.KernelChoice(str(way.kernel), "asked for")
    compiled = programs(way, length, layers)
    cache = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(compiled.cache))
    if not run:
        return Measured(name, length, compiled.then.memory_analysis().temp_size_in_bytes + cache, cache, None)
    model = jax.jit(lambda: Decoder(small(layers, way.window), rngs=nnx.Rngs(0), dtype=DTYPE))()
    tokens = np.random.default_rng(0).integers(0, 1024, (1, length), np.int32)
    peak, seconds = extra_memory(partial(read_all, compiled, model, tokens, way.chunk or length))
    return Measured(name, length, peak, cache, seconds)


def read_all(compiled: Programs, model: Decoder, tokens: np.ndarray, width: int) -> None:
    """The whole prompt [1 N], so many tokens at a time."""
    lengths = np.array([tokens.shape[1]], np.int32)
    cache = compiled.begin(model)
    last = None
    for start in range(0, tokens.shape[1], width):
        program = compiled.then if start else compiled.first
        cache, last = program(model, cache, last, tokens[:, start : start + width], lengths)
    jax.block_until_ready((cache, last))


def extra_memory(work: Callable[[], None]) -> tuple[int, float]:
    """The most bytes of resident memory that some work takes on top of what there was, and its seconds."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or what compiling took and freed would be taken again, and not be seen
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what there is
    before = resident("VmRSS")
    began = time.perf_counter()
    work()
    return resident("VmHWM") - before, time.perf_counter() - began


def resident(field: str) -> int:
    """VmRSS, or VmHWM, its peak, in bytes."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def alone(*arguments: Any) -> Measured:
    """`measure` in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(measure, *arguments).result()


def growth(rows: Sequence[Measured]) -> str:
    """How memory grows: like a power of N, by least squares, and between the two longest prompts."""
    lengths, peaks = (np.array([getattr(row, name) for row in rows]) for name in ("length", "peak"))
    power = np.polyfit(np.log(lengths), np.log(peaks), 1)[0]
    last = lengths[-1] - lengths[-2]
    return f"N^{power:.2f}; {(peaks[-1] - peaks[-2]) / last:,.0f} bytes for each of the last {last:,} tokens"


def table(found: Sequence[Measured]) -> str:
    """Markdown, a row for each N."""
    by = {(row.way, row.length): row for row in found}
    lines = [["tokens", "the cache alone", *(way.label for way in WAYS.values())], ["---:"] * (2 + len(WAYS))]
    for length in sorted({row.length for row in found}):
        rows = [by[way, length] for way in WAYS]
        lines.append([f"{length:,}", f"{by['chunked', length].cache / 1e6:,.0f} MB", *map(cell, rows)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(row: Measured) -> str:
    size = f"{row.peak / 1e6:,.0f} MB"
    if row.seconds is None:
        return f"*{size}, computed*"
    return f"{size}, {row.seconds:,.1f} s"


def draw(found: Sequence[Measured], path: Path) -> None:
    """Memory over N, both logarithmic; hollow where it was computed."""
    with axes(path, 8, 5) as plot:
        for (name, way), colour in zip(WAYS.items(), ("tab:blue", "tab:green", "tab:olive", "tab:red"), strict=True):
            rows = [row for row in found if row.way == name]
            line = ([row.length for row in rows], [row.peak / 1e6 for row in rows])
            plot.loglog(*line, color=colour, label=way.label)
            for row in rows:
                plot.plot(row.length, row.peak / 1e6, "o", color=colour, fillstyle="full" if row.seconds else "none")
        rows = [row for row in found if row.way == "chunked"]
        plot.loglog([row.length for row in rows], [row.cache / 1e6 for row in rows], "k:", label="the cache alone")
        plot.set_xscale("log", base=2)
        plot.set_xticks([row.length for row in rows], [f"{row.length:,}" for row in rows])
        plot.set(xlabel="tokens of the prompt", ylabel="MB on top of weights and programs")
        plot.set_title("Memory of prefill on the CPU (hollow: computed, not run)")
        plot.grid(alpha=0.3)
        plot.legend()


@mistakes("bench_long_context")
def main(words: Sequence[str] | None = None) -> None:
    summary, _, details = (__doc__ or "").partition("\n")
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=summary, epilog=details.strip(), formatter_class=raw)
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=LENGTHS, metavar="N", help="powers of two (to 131072)"
    )
    parser.add_argument("--layers", type=int, default=LAYERS, help=f"of the model ({LAYERS})")
    parser.add_argument("--written-out", type=int, default=8192, metavar="N", help="the most scores to compute (8192)")
    parser.add_argument("--plot", type=Path, help="a PNG file to draw into")
    arguments = parser.parse_args(words)
    if arguments.plot:
        require_drawing(arguments.plot)
    if odd := [length for length in arguments.lengths if whole_number("lengths", length, min_value=1) & (length - 1)]:
        raise InputError(f"lengths={odd[0]}: must be a power of two")
    found = []
    for length in arguments.lengths:
        for name, way in WAYS.items():
            found.append(alone(name, length, arguments.layers, way.kernel is None or length <= arguments.written_out))
            print(f"{length:,} tokens, {name}: {cell(found[-1])}", file=sys.stderr, flush=True)
    print(f"JAX {jax.__version__}, {DTYPE}, {arguments.layers} layers\n\n{table(found)}\n", flush=True)
    for name in WAYS:
        rows = [row for row in found if row.way == name and row.seconds is not None]
        if len(rows) > 1:
            print(f"{name}: {growth(rows)}")
    if arguments.plot:
        draw(found, arguments.plot)


if __name__ == "__main__":
    try:
        main()
    except BrokenProcessPool as error:
        sys.exit(f"bench_long_context: {error}")
