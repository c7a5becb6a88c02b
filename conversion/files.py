"""Tensors of checkpoint files, and helpers to read such files."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.errors import InputError


@dataclass(frozen=True)
class Tensor:
    """An array of a checkpoint that is read on request.

    `read()` returns an array of `shape` and `dtype` (bfloat16 and float8 are those of ml_dtypes). It is memory-mapped
    if the format allows, and may be read-only. `file` is for error messages.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    file: Path

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def parse_object(text: bytes, where: str) -> dict[str, Any]:
    """Returns the JSON object in a text.

    Raises:
      InputError: it is anything else, or repeats a name; the message begins with `where`.
    """
    try:
        value = json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid JSON: {one_line(error)}") from None
    if not isinstance(value, dict):
        raise InputError(f"{where}: not a JSON object")
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for name, item in pairs:
        if name in value:
            raise ValueError(f"{name!r} is there twice")
        value[name] = item
    return value


def read_json(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file.

    Raises:
      InputError: the file cannot be read, or is not a JSON object.
    """
    require_file(path)
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {one_line(error)}") from None
    return parse_object(text, str(path))


def require_file(path: Path) -> None:
    """Checks that `path` is a regular file or a link to one; opening a pipe would block.

    Raises:
      InputError: it is not.
    """
    if not os.path.isfile(path):
        raise InputError(f"{path}: " + ("not a file" if os.path.exists(path) else "no such file"))


def plain_name(name: Any) -> bool:
    """Whether `name` is a file name, and not a path that could leave a directory."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")


def first(names: set[str]) -> str:
    """Returns one of `names` for an error message, always the same one."""
    return repr(min(names))


def one_line(error: Exception) -> str:
    """Returns the first line of an error's message, or the error's class if there is none."""
    lines = str(error).strip().splitlines()
    if lines:
        return lines[0][:200]
    return type(error).__name__


def same_bytes(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same bytes; reads as little as possible."""
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    x, y = (tensor.read().reshape(-1).view(np.uint8) for tensor in (a, b))
    if x.ctypes.data == y.ctypes.data:  # one storage under two names
        return True
    return np.array_equal(x[:4096], y[:4096]) and np.array_equal(x, y)


def map_array(path: Path, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Returns a read-only, memory-mapped array that begins at `offset` of a file.

    Raises:
      InputError: the file has become shorter.
    """
    count = math.prod(shape)
    if count == 0:
        return np.empty(shape, dtype)
    try:
        data = np.memmap(path, np.uint8, "r", offset, (count * dtype.itemsize,))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: changed or removed since it was opened: {one_line(error)}") from None
    # Writers align the data, but need not; only then is a copy made.
    return np.require(data.view(np.ndarray).view(dtype).reshape(shape), requirements="A")
