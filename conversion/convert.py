"""From a checkpoint in anybody's layout to a native one."""

import dataclasses
import math
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from conversion.architectures import architecture
from conversion.files import parse_object
from conversion.keys import Keys
from conversion.source import Source, open_source
from conversion.table import Table, claim
from jaxllm import checkpoint, config
from jaxllm.errors import InputError
from jaxllm.models.decoder import abstract
from jaxllm.workspace import require_vacant


class Translation(NamedTuple):
    """A source, our config for it, and the table of its weights."""

    source: Source
    part: config.Decoder
    table: Table


def translate(source: Source) -> Translation:
    """Our config from the source's, every key of which is accounted for; the weights are not opened.

    Raises:
        InputError: an architecture or a key that is not supported.
    """
    keys = Keys(source.config)
    module = architecture(keys.take("model_type", None))
    part = module.from_hf(keys)
    keys.finish()
    part = dataclasses.replace(part, eos_token_ids=_eos_token_ids(source, part))
    return Translation(source, part, module.TABLE)


def convert(
    source: str | Path, target: str | Path, dtype: Any = None, quantize: None = None, revision: str | None = None
) -> Path:
    """Writes the native checkpoint `target` from a directory or hub repository; returns its path.

    Every tensor keeps its dtype unless `dtype` names another. Nothing is left behind when it fails.

    Raises:
        InputError: the source is no whole, supported checkpoint, or the target exists.
    """
    if quantize is not None:
        raise InputError(f"quantize={quantize!r}: quantized weights are not supported yet")
    target = Path(target)
    require_vacant(target)  # before a hub is asked for gigabytes
    return write(translate(open_source(source, revision)), target, dtype and checkpoint.float_dtype(dtype))


def write(translation: Translation, target: Path, dtype: np.dtype | None = None) -> Path:
    """Claims every tensor of a translated source and writes the native checkpoint."""
    source, part, table = translation
    arrays = list(claim(table, abstract(part, dtype or np.float32), source.tensors, dtype is not None))
    stored = stored_dtype(source)
    manifest = {
        "source": str(source.path),
        "layout": source.layout,
        "dtype": str(dtype or stored),
        "source_dtype": str(stored),
        "hf_config": source.config,
    }
    return checkpoint.save(target, part, arrays, manifest, source.auxiliary)


def stored_dtype(source: Source) -> np.dtype:
    """The dtype that most of the weights are stored in.

    Raises:
        InputError: there are none.
    """
    sizes: Counter[np.dtype] = Counter()
    for tensor in source.tensors.values():
        if tensor.dtype.kind in "fV":
            sizes[tensor.dtype] += math.prod(tensor.shape)
    if not sizes:
        raise InputError(f"{source.path}: holds no floating-point weights")
    return sizes.most_common(1)[0][0]


def said_dtype(source: Source) -> np.dtype | None:
    """The dtype that the config says the weights are stored in, or None where it says none."""
    said = source.config.get("dtype") or source.config.get("torch_dtype")
    return checkpoint.float_dtype(said) if said in checkpoint.DTYPES else None


def _eos_token_ids(source: Source, part: config.Decoder) -> tuple[int, ...]:
    """`generation_config.json`, if there is one, has the last word on what ends a text, as in Transformers."""
    for file in source.auxiliary:
        if file.name == "generation_config.json":
            return Keys(parse_object(file.read_bytes(), file.name), file.name).token_ids("eos_token_id", None)
    return part.eos_token_ids
