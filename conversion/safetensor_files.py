"""Reads and writes safetensors files, memory-mapped.

The format (https://github.com/huggingface/safetensors#format): eight bytes with the length N of the header, little-
endian; N bytes of JSON, name -> {"dtype", "shape", "data_offsets": [begin, end]} with offsets from the end of the
header, and an optional "__metadata__" of strings; then the data, row-major, without gaps or overlaps to the end of the
file. The `safetensors` package copies every NumPy array and has no float8 for NumPy, hence this reader. It makes the
same checks (`Metadata::validate` in safetensors/src/tensor.rs).
"""

import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from reprlib import repr as shown  # short, however long or deep
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from conversion.files import Tensor, map_array, one_line, parse_object, require_file
from jaxllm.errors import InputError

MAX_HEADER_BYTES = 100_000_000  # the package's own limit
MAX_RANK = 64  # NumPy's
MAX_BYTES = 2**63 - 1

DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "C64": np.dtype(np.complex64),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
}


NAMES = {dtype: name for name, dtype in DTYPES.items()}


class _Entry(NamedTuple):
    begin: int
    end: int
    dtype: np.dtype
    shape: tuple[int, ...]


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a file in its order; `read()` maps a tensor's bytes, read-only.

    Raises:
      InputError: the file violates the format; one line that names the file and the tensor.
    """
    header, start, size = _read_header(path)
    _check_metadata(path, header.pop("__metadata__", {}))
    entries = {name: _entry(f"{path}: tensor {name!r}", fields) for name, fields in header.items()}
    ordered = dict(sorted(entries.items(), key=lambda item: item[1][:2]))
    _check_layout(path, ordered, size - start)
    return {
        name: Tensor(e.shape, e.dtype, partial(map_array, path, start + e.begin, e.dtype, e.shape), path)
        for name, e in ordered.items()
    }


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], advance: Callable[[int], None]) -> None:
    """Writes a file, one tensor at a time; calls `advance` with the bytes of each. Wider dtypes come first.

    Raises:
      OSError: it cannot be written.
    """
    ordered = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)  # so that each is aligned
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in ordered:
        begin = end
        end = end + tensor.nbytes
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in ordered:
            file.write(np.ascontiguousarray(tensor.read()).reshape(-1).view(np.uint8).data)
            advance(tensor.nbytes)


def _read_header(path: Path) -> tuple[dict[str, Any], int, int]:
    """Returns the header, the start of the data, and the size of the file."""
    require_file(path)
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                raise InputError(f"{path}: not safetensors, or truncated: no room for a header of {length} bytes")
            text = file.read(length)
    except OSError as error:
        raise InputError(f"{path}: {one_line(error)}") from None
    if not text.startswith(b"{"):
        raise InputError(f"{path}: not a safetensors file: its header is not a JSON object")
    return parse_object(text, f"{path}: header"), 8 + length, size


def _check_metadata(path: Path, metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise InputError(f"{path}: '__metadata__' is not an object of strings")


def _entry(where: str, fields: Any) -> _Entry:
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise InputError(f"{where}: an entry has exactly dtype, shape and data_offsets")
    dtype = fields["dtype"]
    shape = fields["shape"]
    offsets = fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise InputError(f"{where}: unknown dtype {shown(dtype)}")
    if not _counts(shape) or len(shape) > MAX_RANK:
        raise InputError(f"{where}: not a shape: {shown(shape)}")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise InputError(f"{where}: not a pair of offsets: {shown(offsets)}")
    # Zero-sized dimensions left out: NumPy limits the product of the others.
    if math.prod(n for n in shape if n) * DTYPES[dtype].itemsize > MAX_BYTES:
        raise InputError(f"{where}: an array cannot be of shape {shown(shape)}")
    expected = math.prod(shape) * DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != expected:
        raise InputError(f"{where}: {dtype} {shape} takes {expected} bytes, its offsets span {offsets[1] - offsets[0]}")
    return _Entry(offsets[0], offsets[1], DTYPES[dtype], tuple(shape))


def _counts(value: Any) -> bool:
    # type(), not isinstance(): true is an int to Python.
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def _check_layout(path: Path, ordered: dict[str, _Entry], data_bytes: int) -> None:
    """Checks that the tensors fill the data without gaps or overlaps."""
    position = 0
    for name, entry in ordered.items():
        if entry.end > data_bytes:
            raise InputError(f"{path}: truncated: tensor {name!r} ends at byte {entry.end} of {data_bytes}")
        if entry.begin != position:
            problem = "overlaps the one before it"
            if entry.begin >= position:
                problem = "comes after a gap"
            raise InputError(f"{path}: tensor {name!r} {problem}")
        position = entry.end
    if position != data_bytes:
        raise InputError(f"{path}: {data_bytes - position} bytes after the last tensor belong to none")
