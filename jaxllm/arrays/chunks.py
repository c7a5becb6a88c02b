"""How a stored array is divided into chunks, the units of reading: along the axes that meshes split."""

import math
from collections.abc import Sequence

from jaxllm.sharding import RULES

_MOST_BYTES = 1 << 23
_LEAST_BYTES = 1 << 19
_SHARES = 16  # chunks along the axis of tensor parallelism, if they divide it: a shard then has whole chunks
_RANKS = {logical: rank for rank, (logical, _) in enumerate(RULES)}


def chunk_shape(shape: Sequence[int], axes: Sequence[str], itemsize: int) -> tuple[int, ...]:
    """Returns the shape of the chunks of an array with these logical axes. It divides the array's shape: no padding.

    Chunks have 0.5 to 8 MB if the array's sizes allow. Large slices along the first axis are never in one chunk, so
    that stacked experts can be written one at a time.
    """
    chunk = list(shape)

    def nbytes() -> int:
        return itemsize * math.prod(chunk)

    order = sorted((axis for axis, name in enumerate(axes) if name in _RANKS), key=lambda axis: _RANKS[axes[axis]])
    if nbytes() // max(1, shape[0] if shape else 1) >= _LEAST_BYTES:
        chunk[0] = 1
    for axis in order[:1]:
        while nbytes() > _LEAST_BYTES and chunk[axis] % 2 == 0 and shape[axis] // chunk[axis] < _SHARES:
            chunk[axis] //= 2
    while nbytes() > _MOST_BYTES:
        divisible = [axis for axis in range(len(chunk)) if _divisor(chunk[axis])]
        if not divisible:
            break
        axis = max(divisible, key=lambda axis: (axis in order, chunk[axis]))
        chunk[axis] //= _divisor(chunk[axis])
    return tuple(chunk)


def _divisor(n: int) -> int:
    """Returns the smallest divisor from 2 to 63; 0 if there is none.

    An axis without one, such as a vocabulary of prime size, is not divided: its chunks would be single rows.
    """
    return next((k for k in range(2, 64) if n % k == 0), 0)
