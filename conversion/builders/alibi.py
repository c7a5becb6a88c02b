"""ALiBi slopes (Press et al. 2022), as different models compute them."""

from collections.abc import Callable

import numpy as np

from jaxllm.errors import InputError


def bloom_slopes(heads: int) -> tuple[float, ...]:
    """Returns powers of a base that is rounded first."""
    return _slopes(heads, lambda count, head: float(np.float32(2.0 ** (-8 / count))) ** head)


def mpt_slopes(heads: int) -> tuple[float, ...]:
    """Returns powers of two."""
    return _slopes(heads, lambda count, head: 2.0 ** (-8 / count * head))


def _slopes(heads: int, slope: Callable[[int, int], float]) -> tuple[float, ...]:
    """Returns the series of the largest power of two, followed by every other slope of the series of twice as many."""
    if heads > 4096:
        raise InputError(f"config.json: {heads} heads are too many for ALiBi")
    count = 1 << heads.bit_length() - 1
    first = [slope(count, head) for head in range(1, count + 1)]
    between = [slope(2 * count, head) for head in range(1, 2 * (heads - count), 2)]
    return tuple(float(np.float32(value)) for value in first + between)
