"""Reads the tensors of GGUF files. Quantized ones are dequantized as they are read."""

import math
import re
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from conversion.files import Tensor, map_array
from jaxllm.errors import InputError
from jaxllm.text.gguf_header import Header, TensorInfo, read_header

SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
STORED = {
    GGMLQuantizationType.F64: np.dtype(np.float64),
    GGMLQuantizationType.F32: np.dtype(np.float32),
    GGMLQuantizationType.F16: np.dtype(np.float16),
    GGMLQuantizationType.BF16: np.dtype(ml_dtypes.bfloat16),
}


class Stored(NamedTuple):
    """A tensor as it lies in a file: rows of blocks, each a number of bytes for a number of weights."""

    file: Path
    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Size in the file."""
        weights, size = GGML_QUANT_SIZES[self.kind]
        return math.prod(self.shape) // weights * size

    def part(self, index: int) -> "Stored":
        """Returns one slice along the first axis, such as one expert of several."""
        step = self.nbytes // self.shape[0]
        return self._replace(shape=self.shape[1:], offset=self.offset + index * step)

    def raw(self) -> Tensor:
        """Returns the bytes of the tensor."""
        read = partial(map_array, self.file, self.offset, np.dtype(np.uint8), (self.nbytes,))
        return Tensor((self.nbytes,), np.dtype(np.uint8), read, self.file)

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the weights; float32 for quantized ones, which it holds exactly."""
        return STORED.get(self.kind, np.dtype(np.float32))

    def read(self) -> np.ndarray:
        """Returns the weights, memory-mapped unless they are quantized."""
        if self.kind in STORED:
            return map_array(self.file, self.offset, self.dtype, self.shape)
        weights, size = GGML_QUANT_SIZES[self.kind]
        blocks = (*self.shape[:-1], self.shape[-1] // weights * size)
        with np.errstate(all="ignore"):  # an infinite scale is reported as any other infinite weight
            return dequantize(map_array(self.file, self.offset, np.dtype(np.uint8), blocks), self.kind)


def read_gguf(path: Path) -> tuple[Header, dict[str, Stored]]:
    """Reads the header of a file, or of the first of several shards, and finds the tensors of all shards.

    Raises:
      InputError: a file is broken or missing, or a tensor is of a type that cannot be read; one line.
    """
    header = read_header(path)
    shards = [header, *(read_header(file) for file in _later_shards(header))]
    tensors: dict[str, Stored] = {}
    for index, shard in enumerate(shards):
        if len(shards) > 1 and shard.values.get("split.no") != index:
            raise InputError(f"{shard.file}: split.no is {shard.values.get('split.no')}, and its name makes it {index}")
        for name, info in shard.tensors.items():
            if name in tensors:
                raise InputError(f"{shard.file}: tensor {name}: also in {tensors[name].file.name}")
            tensors[name] = _stored(f"{shard.file}: tensor {name}", shard.file, info)
    if len(tensors) != (total := header.values.get("split.tensors.count", len(tensors))):
        raise InputError(f"{path}: split.tensors.count is {total!r}, but the shards hold {len(tensors)}")
    return header, tensors


def _later_shards(header: Header) -> list[Path]:
    """Returns the files that follow the first shard: NAME-00002-of-00003.gguf and so on."""
    count = header.values.get("split.count", 1)
    found = SHARD.fullmatch(header.file.name)
    named = 1
    if found:
        named = int(found["count"])
    if count in (0, 1) and named == 1:
        return []
    if found is None or count != named:
        raise InputError(f"{header.file}: split.count is {count!r}, which its name, NAME-00001-of-0000N.gguf, must say")
    if int(found["number"]) != 1:
        raise InputError(f"{header.file}: one shard of {named}; give the first")
    return [header.file.with_name(f"{found['stem']}-{i:05}-of-{named:05}.gguf") for i in range(2, named + 1)]


def _stored(where: str, file: Path, info: TensorInfo) -> Stored:
    """Returns a tensor, after checking that its type is known and that it lies within its file."""
    try:
        kind = GGMLQuantizationType(info.kind)
    except ValueError:
        raise InputError(f"{where}: of the unknown type {info.kind}") from None
    if kind not in STORED and not _is_readable(kind):
        raise InputError(f"{where}: its type {kind.name} cannot be read")
    weights, _ = GGML_QUANT_SIZES[kind]
    if info.shape[-1] % weights:
        raise InputError(f"{where}: rows of {info.shape[-1]}, which {kind.name}'s blocks of {weights} do not divide")
    tensor = Stored(file, kind, info.shape, info.offset)
    if (end := tensor.offset + tensor.nbytes) > (size := file.stat().st_size):
        raise InputError(f"{where}: truncated: ends at byte {end} of {size}")
    return tensor


@cache
def _is_readable(kind: GGMLQuantizationType) -> bool:
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True
