"""Conversions and checksums of array values."""

import zlib
from collections.abc import Iterable

import numpy as np

from jaxllm.errors import InputError


def cast(array: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """Converts an array to another dtype; returns the array itself if it has that dtype.

    Raises:
      InputError: a finite value is not finite in the new dtype.
    """
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):  # reported below, for all dtypes
        result = array.astype(dtype)
    if not np.array_equal(np.isinf(result), np.isinf(array)):
        raise InputError(f"tensor {name}: has values that {dtype} cannot hold; choose another dtype")
    return result


def checksum(blocks: Iterable[np.ndarray]) -> str:
    """Returns the CRC-32 of data that arrive in blocks."""
    value = 0
    for block in blocks:
        value = zlib.crc32(np.ascontiguousarray(block).view(np.uint8).data, value)
    return f"crc32:{value:08x}"
