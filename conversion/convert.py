"""Converts a checkpoint of any supported layout to a native one."""

import dataclasses
import math
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from conversion.architecture import Architecture
from conversion.architectures import architecture as registered_architecture
from conversion.claim import claim
from conversion.config_reader import ConfigReader
from conversion.files import parse_object
from conversion.source import Source, open_source
from conversion.table import WeightTable
from jaxllm import checkpoint
from jaxllm.atomic_write import require_vacant
from jaxllm.errors import InputError
from jaxllm.models.abstract import abstract


class Translation(NamedTuple):
    """A source, our config of it, and the table of its weights."""

    source: Source
    config: Any  # a ModelConfig
    table: WeightTable


def translate(source: Source, architecture: Architecture | None = None) -> Translation:
    """Translates the config of a source. Every key must be handled; the weights are not opened.

    Args:
      source: the checkpoint.
      architecture: its architecture; by default the registered one of its `model_type`.

    Raises:
      InputError: the architecture or a key of the config is not supported.
    """
    reader = ConfigReader(source.config)
    model_type = reader.take("model_type", None)
    if architecture is None:
        architecture = registered_architecture(model_type)
    config = architecture.from_hf(reader)
    reader.finish()
    return Translation(source, _with_generation_config(source, config), architecture.table)


def convert(
    source: str | Path,
    target: str | Path,
    dtype: Any = None,
    quantize: None = None,
    revision: str | None = None,
    architecture: Architecture | None = None,
) -> Path:
    """Converts a directory or hub repository to the native checkpoint `target`; returns its path.

    A failed conversion leaves nothing behind.

    Args:
      source: directory, file, or name of a hub repository.
      target: directory to create.
      dtype: dtype to store; by default every tensor keeps its own.
      quantize: not supported yet.
      revision: revision of the hub repository.
      architecture: architecture of the source; by default the registered one of its `model_type`.

    Raises:
      InputError: the source is not a complete, supported checkpoint, or the target exists.
    """
    if quantize is not None:
        raise InputError(f"quantize={quantize!r}: quantized weights are not supported yet")
    target = Path(target)
    require_vacant(target)  # before gigabytes are downloaded
    translation = translate(open_source(source, revision), architecture)
    return write(translation, target, None if dtype is None else checkpoint.float_dtype(dtype))


def write(translation: Translation, target: Path, dtype: np.dtype | None = None) -> Path:
    """Checks every tensor of a translated source and writes the native checkpoint."""
    source, config, table = translation
    model = abstract(config, dtype or np.float32)
    arrays = list(claim(table, model, source.tensors, recast=dtype is not None))
    source_dtype = stored_dtype(source)
    manifest = {
        "source": str(source.path),
        "layout": source.layout,
        "dtype": str(dtype or source_dtype),
        "source_dtype": str(source_dtype),
        "hf_config": source.config,
    }
    return checkpoint.save(target, config, arrays, manifest, source.auxiliary)


def stored_dtype(source: Source) -> np.dtype:
    """Returns the dtype that most of the weights are stored in.

    Raises:
      InputError: there are no floating-point weights.
    """
    sizes: Counter[np.dtype] = Counter()
    for tensor in source.tensors.values():
        if tensor.dtype.kind in "fV":
            sizes[tensor.dtype] += math.prod(tensor.shape)
    if not sizes:
        raise InputError(f"{source.path}: holds no floating-point weights")
    return sizes.most_common(1)[0][0]


def declared_dtype(source: Source) -> np.dtype | None:
    """Returns the dtype that the config declares for the weights; None if it declares none."""
    declared = source.config.get("dtype") or source.config.get("torch_dtype")
    if declared not in checkpoint.DTYPES:
        return None
    return checkpoint.float_dtype(declared)


def _with_generation_config(source: Source, config: Any) -> Any:
    """Returns the config with the end tokens of `generation_config.json`, which take precedence in Transformers."""
    for file in source.auxiliary:
        if file.name == "generation_config.json" and hasattr(config, "eos_token_ids"):
            reader = ConfigReader(parse_object(file.read_bytes(), file.name), file.name)
            return dataclasses.replace(config, eos_token_ids=reader.token_ids("eos_token_id", None))
    return config
