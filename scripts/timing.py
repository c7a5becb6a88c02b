"""Timing of short programs on a device: of what is computed there, and not of how long a call takes to get there."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

LOOPED = 64  # calls in one dispatch, of a program that takes less than
SHORT = 1e-3  # seconds


class Seconds(NamedTuple):
    """Of one call: in the best sample and in the middle one."""

    best: float
    median: float


def sampler(program: Callable[..., jax.Array], arguments: tuple[Any, ...], least: float) -> Callable[[], float]:
    """Returns a function that measures the seconds of one call, by calls that together take at least `least` seconds.

    The program gives an array of the shape of its first argument, which the next call of a loop takes for it.
    """
    run = jax.jit(program)
    calls = 1
    once = _elapsed(run, arguments, 1, warm=True)
    if once < SHORT:
        run = jax.jit(_loop(program))
        calls = LOOPED
        once = _elapsed(run, arguments, 1, warm=True)
    count = max(1, math.ceil(least / once))
    return lambda: _elapsed(run, arguments, count) / count / calls


def interleaved(samplers: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Seconds]:
    """Takes samples of all in turn, so that what else the machine does meets each of them alike."""
    taken: dict[str, list[float]] = {name: [] for name in samplers}
    for _ in range(rounds):
        for name, sample in samplers.items():
            taken[name].append(sample())
    return {name: Seconds(min(times), statistics.median(times)) for name, times in taken.items()}


def _loop(program: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    def looped(first: jax.Array, *rest: Any) -> jax.Array:
        def step(_: Any, x: jax.Array) -> jax.Array:
            return program(*jax.lax.optimization_barrier((x, *rest)))  # or what is made of the rest leaves the loop

        return jax.lax.fori_loop(0, LOOPED, step, first)

    return looped


def _elapsed(run: Callable[..., jax.Array], arguments: tuple[Any, ...], count: int, warm: bool = False) -> float:
    if warm:
        for _ in range(2):
            jax.block_until_ready(run(*arguments))
    began = time.perf_counter()
    last = None
    for _ in range(count):
        last = run(*arguments)
    jax.block_until_ready(last)
    return time.perf_counter() - began
