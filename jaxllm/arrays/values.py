"""What holds of the values of an array, wherever it is stored."""

import zlib
from collections.abc import Iterable

import numpy as np

from jaxllm.errors import InputError


def cast(array: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """The array in another dtype; itself if it has that already.

    Raises:
        InputError: one of its values is finite, and would not be in the new dtype.
    """
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):  # told here, and for all dtypes
        result = array.astype(dtype)
    if not np.array_equal(np.isinf(result), np.isinf(array)):
        raise InputError(f"tensor {name}: has values that {dtype} cannot hold; choose another dtype")
    return result


def checksum(blocks: Iterable[np.ndarray]) -> str:
    """The CRC-32 of data that come in blocks."""
    value = 0
    for block in blocks:
        value = zlib.crc32(np.ascontiguousarray(block).view(np.uint8).data, value)
    return f"crc32:{value:08x}"
