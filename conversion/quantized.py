"""Dequantizes published quantized weights to bfloat16 as they are read.

mxfp4 (OCP Microscaling Formats 1.0, 2023; gpt-oss): pairs of 4-bit floats in a byte, and a power of two for each 32.
fp8 (DeepSeek-V3): 8-bit floats, and a factor for each block of a matrix.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from conversion.config_reader import ConfigReader
from conversion.files import Tensor
from jaxllm.errors import InputError

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT8 = np.dtype(ml_dtypes.float8_e4m3fn)
Present = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


class Quantization(NamedTuple):
    """A quantization method: its name, and the function that dequantizes the tensors."""

    name: str
    present: Present


_BYTES = np.arange(256, dtype=np.uint8).view(FLOAT8).astype(np.float32)


def _mxfp4_pairs() -> np.ndarray:
    """Returns the two bfloat16 values of each byte for each power, low nibble first; uint16 [power byte 2]."""
    positive = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    nibbles = np.concatenate([positive, -positive])[np.arange(256)[:, None] >> np.array([0, 4]) & 15]
    with np.errstate(over="ignore"):
        return np.ldexp(nibbles, np.arange(256)[:, None, None] - 127).astype(BFLOAT16).view(np.uint16)


def unquantized(config: dict[str, Any]) -> tuple[dict[str, Any], Quantization | None]:
    """Returns a config without its `quantization_config`, and the method; unknown methods are left for `ConfigReader`.

    Raises:
      InputError: a setting is not supported; later, tensors do not match.
    """
    settings = config.get("quantization_config")
    if not isinstance(settings, dict) or settings.get("quant_method") not in ("mxfp4", "fp8"):
        return config, None
    reader = ConfigReader(settings, "config.json: quantization_config")
    reader.take("modules_to_not_convert", None)  # given by the tensors
    method = reader.take("quant_method")
    present = {"mxfp4": _mxfp4, "fp8": _fp8}[method](reader)
    reader.finish()
    plain = {key: value for key, value in config.items() if key != "quantization_config"}
    return plain, Quantization(method, present)


def _mxfp4(reader: ConfigReader) -> Present:
    def combine(name: str, blocks: Tensor, scales: Tensor) -> Tensor:
        if blocks.dtype != np.uint8 or scales.dtype != np.uint8 or scales.shape != blocks.shape[:-1]:
            raise _misfit(name, blocks, scales)
        if len(blocks.shape) != 4:
            raise InputError(f"tensor {name}: shape {list(blocks.shape)}: blocks of experts have four dimensions")
        experts, rows, groups, size = blocks.shape
        return Tensor((experts, 2 * groups * size, rows), BFLOAT16, partial(_read_mxfp4, blocks, scales), blocks.file)

    return partial(_combined, combine, data="_blocks", scales="_scales", plain="")


def _read_mxfp4(blocks: Tensor, scales: Tensor) -> np.ndarray:
    """Converts bytes [E R G B] and powers [E R G] to [E 2GB R], one expert at a time."""
    (experts, rows, groups, size) = blocks.shape
    data = blocks.read()
    powers = scales.read()
    pairs = _mxfp4_pairs().view(np.uint32).reshape(-1)
    out = np.empty((experts, rows, groups, size), np.uint32)
    for expert in range(experts):
        np.take(pairs, powers[expert, ..., None] * np.uint16(256) + data[expert], out=out[expert])
    return out.reshape(experts, rows, -1).view(BFLOAT16).swapaxes(1, 2)


def _fp8(reader: ConfigReader) -> Present:
    for name, only in (("fmt", "e4m3"), ("activation_scheme", "dynamic")):
        reader.choice(name, {only: only}, only)
    sides = reader.numbers("weight_block_size")
    if len(sides) != 2 or any(int(side) != side for side in sides):
        raise InputError(f"config.json: quantization_config: weight_block_size={sides}: must be two whole numbers")
    height, width = map(int, sides)

    def combine(name: str, weight: Tensor, scales: Tensor) -> Tensor:
        counts = tuple(-(-n // side) for n, side in zip(weight.shape, (height, width), strict=False))
        if weight.dtype != FLOAT8 or scales.dtype != np.float32 or len(weight.shape) != 2 or scales.shape != counts:
            raise _misfit(name, weight, scales)
        return Tensor(weight.shape, BFLOAT16, partial(_read_fp8, weight, scales, height, width), weight.file)

    return partial(_combined, combine, data=".weight", scales=".weight_scale_inv", plain=".weight")


def _read_fp8(weight: Tensor, scales: Tensor, height: int, width: int) -> np.ndarray:
    """Multiplies floats [O I] by the factor of their block, one row of blocks at a time."""
    data = weight.read().view(np.uint8)
    factors = scales.read()
    out = np.empty(weight.shape, BFLOAT16)
    for row, factor in enumerate(factors):
        part = slice(row * height, (row + 1) * height)
        out[part] = _BYTES[data[part]] * np.repeat(factor, width)[: weight.shape[1]]
    return out


def _combined(
    combine: Callable[[str, Tensor, Tensor], Tensor], tensors: Mapping[str, Tensor], data: str, scales: str, plain: str
) -> dict[str, Tensor]:
    """Combines each pair of tensors whose names end in `data` and `scales` into one whose name ends in `plain`."""
    result = {name: tensor for name, tensor in tensors.items() if not name.endswith(scales)}
    for name, tensor in tensors.items():
        if name.endswith(scales):
            stem = name.removesuffix(scales)
            if (values := result.pop(stem + data, None)) is None:
                raise InputError(f"tensor {name}: in {tensor.file.name}, but not {stem + data}")
            result[stem + plain] = combine(stem + data, values, tensor)
    return result


def _misfit(name: str, values: Tensor, scales: Tensor) -> InputError:
    pair = ", ".join(f"{tensor.dtype}{list(tensor.shape)}" for tensor in (values, scales))
    return InputError(f"tensor {name}: it and its scales do not fit together: {pair}")
