"""Reads the header of a GGUF file: its metadata, and the position of its tensors.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The `gguf` package's reader trusts the lengths in
a file, so one wrong count keeps it busy forever; this reader checks each against the file's size.
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxllm.errors import InputError

VERSIONS = (2, 3)
MAX_ITEMS = 1 << 24  # of an array; the longest have a token or a merge each
MAX_RANK = 4  # ggml's
MAX_NAME = 200  # ggml's is 63 for a tensor, and no key is near it
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_FLOAT32 = 6
_STRING = 8
_ARRAY = 9


class TensorInfo(NamedTuple):
    """A tensor of the header: shape in NumPy's order, number of its type, position in the file."""

    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class Header:
    """The metadata and tensors of a file; `spans` are the bytes of each key with its value."""

    file: Path
    values: dict[str, Any]
    spans: dict[str, slice]
    tensors: dict[str, TensorInfo]

    def only(self, *prefixes: str) -> bytes:
        """Returns a GGUF file with the keys of a prefix, and no tensors."""
        spans = [span for key, span in self.spans.items() if key.startswith(prefixes)]
        with self.file.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return struct.pack("<4sIQQ", b"GGUF", VERSIONS[-1], 0, len(spans)) + b"".join(data[span] for span in spans)


def read_header(path: Path) -> Header:
    """Reads the header of a GGUF file. Whether its tensors lie within the file is not checked.

    Raises:
      InputError: it is not a complete GGUF header; one line that names the file.
    """
    if not os.path.isfile(path):
        raise InputError(f"{path}: not a file")
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Cursor(data).header(path)
    except InputError as error:
        raise InputError(f"{path}: not a whole GGUF file: {error}") from None
    except (OSError, ValueError) as error:  # mmap has a ValueError for an empty file
        raise InputError(f"{path}: not a whole GGUF file: {' '.join(str(error).split())[:200]}") from None


class _Cursor:
    """Reads from a position on. Its errors do not name the file."""

    def __init__(self, data: mmap.mmap):
        self._data = data
        self._at = 0

    def header(self, path: Path) -> Header:
        """Reads the whole header."""
        if self._data[:4] != b"GGUF":
            raise InputError("it does not begin with 'GGUF'")
        self._take(4)
        if (version := self._number("I")) not in VERSIONS:
            raise InputError(f"version {version} (big-endian?), and those read are {VERSIONS[0]} and {VERSIONS[1]}")
        tensor_count = self._number("Q")
        key_count = self._number("Q")
        values, spans = self._metadata(key_count)
        infos = self._infos(tensor_count)
        alignment = values.get("general.alignment", 32)
        if type(alignment) is not int or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
            raise InputError("general.alignment is not a power of two")
        start = -(-self._at // alignment) * alignment
        tensors = {name: info._replace(offset=start + info.offset) for name, info in infos.items()}
        return Header(path, values, spans, tensors)

    def _metadata(self, count: int) -> tuple[dict[str, Any], dict[str, slice]]:
        values: dict[str, Any] = {}
        spans: dict[str, slice] = {}
        for _ in range(count):
            start = self._at
            key = self._name("a key")
            if key in values:
                raise InputError(f"{key} is there twice")
            values[key] = self._value(key, self._number("I"))
            spans[key] = slice(start, self._at)
        return values, spans

    def _infos(self, count: int) -> dict[str, TensorInfo]:
        infos: dict[str, TensorInfo] = {}
        for _ in range(count):
            name = self._name("the name of a tensor")
            if name in infos:
                raise InputError(f"tensor {name} is there twice")
            if not 1 <= (rank := self._number("I")) <= MAX_RANK:
                raise InputError(f"tensor {name} has {rank} dimensions")
            shape = tuple(self._number("Q") for _ in range(rank))[::-1]
            if not all(shape):
                raise InputError(f"tensor {name} has a dimension of 0")
            infos[name] = TensorInfo(shape, self._number("I"), self._number("Q"))
        return infos

    def _value(self, key: str, kind: int) -> Any:
        if kind == _STRING:
            return self._string(key)
        if kind == _ARRAY:
            return self._array(key, self._number("I"), self._number("Q"))
        value = self._number(self._code(key, kind))
        # The shortest decimal that is this float32: 1e-05, where the widened one would be 9.999999747378752e-06.
        if kind == _FLOAT32:
            return float(str(np.float32(value)))
        return value

    def _array(self, key: str, kind: int, count: int) -> list[Any]:
        if count > MAX_ITEMS:
            raise InputError(f"{key} has {count} items")
        if kind == _STRING:
            return [self._string(key) for _ in range(count)]
        code = self._code(key, kind)
        return list(struct.unpack_from(f"<{count}{code}", self._data, self._take(count * struct.calcsize(code))))

    def _code(self, key: str, kind: int) -> str:
        if kind not in _SCALARS:
            raise InputError(f"{key} is of the unknown type {kind}")
        return _SCALARS[kind]

    def _number(self, code: str) -> Any:
        return struct.unpack_from(f"<{code}", self._data, self._take(struct.calcsize(f"<{code}")))[0]

    def _name(self, what: str) -> str:
        name = self._string(what)
        if not name.isprintable() or len(name) > MAX_NAME:
            raise InputError(f"{what} is not of up to {MAX_NAME} printable characters: {name[:60]!r}")
        return name

    def _string(self, what: str) -> str:
        length = self._number("Q")
        start = self._take(length)
        try:
            return self._data[start : start + length].decode()
        except UnicodeDecodeError:
            raise InputError(f"{what} is not UTF-8") from None

    def _take(self, size: int) -> int:
        """Returns where the next `size` bytes begin, and moves past them."""
        start = self._at
        self._at = self._at + size
        if self._at > len(self._data):
            raise InputError("it ends within its header")
        return start
