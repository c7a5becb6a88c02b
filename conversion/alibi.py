"""ALiBi's slopes (Press et al. 2022): one for each head, from half a distance down to a small part of it."""

from collections.abc import Callable

import numpy as np

from jaxllm.errors import InputError


def bloom_slopes(heads: int) -> tuple[float, ...]:
    """Powers of a base that is rounded first."""
    return _slopes(heads, lambda count, head: float(np.float32(2.0 ** (-8 / count))) ** head)


def mpt_slopes(heads: int) -> tuple[float, ...]:
    """Powers of two."""
    return _slopes(heads, lambda count, head: 2.0 ** (-8 / count * head))


def _slopes(heads: int, slope: Callable[[int, int], float]) -> tuple[float, ...]:
    """The series of the greatest power of two, then every other one of the series of twice as many."""
    if heads > 4096:
        raise InputError(f"config.json: {heads} heads are too many for ALiBi")
    count = 1 << heads.bit_length() - 1
    first = [slope(count, head) for head in range(1, count + 1)]
    between = [slope(2 * count, head) for head in range(1, 2 * (heads - count), 2)]
    return tuple(float(np.float32(value)) for value in first + between)
