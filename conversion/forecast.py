"""Forecasts what a conversion would do, from the source's config; no weights are read or written."""

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage
from typing import Any

import numpy as np

from conversion.claim import claim
from conversion.convert import Translation, declared_dtype, stored_dtype, translate
from conversion.files import read_json
from conversion.source import INDEX, INDEXES, open_source
from jaxllm import checkpoint
from jaxllm.arrays import ArraySource, write_arrays
from jaxllm.atomic_write import hidden_directory, require_vacant
from jaxllm.config import DecoderConfig
from jaxllm.errors import InputError
from jaxllm.models.abstract import abstract
from jaxllm.nn.parameter import named_parameters

PROBE_BYTES = 1 << 26
_BY_WIDTH = {2: "16-bit floats", 4: "float32", 8: "float64"}


@dataclass(frozen=True)
class Forecast:
    """What would be converted. `seconds` is an estimate without reading or downloading the source."""

    source: str
    model_type: str
    parameters: int
    layers: int
    embed_dim: int
    heads: int
    vocab_size: int
    context: int
    dtype: str
    bytes: int
    free_bytes: int
    seconds: float

    def print(self) -> None:
        """Prints a few lines on stdout."""
        from rich.filesize import decimal

        enough = ""
        if self.bytes > self.free_bytes:
            enough = ", NOT ENOUGH"
        print(f"{self.source}: {self.model_type}, {self.parameters:,} parameters")
        print(
            f"{self.layers} layers, {self.embed_dim:,} wide, of {self.heads} heads; "
            f"a vocabulary of {self.vocab_size:,}, a context of {self.context:,}"
        )
        print(f"{decimal(self.bytes)} would be written in {self.dtype}; {decimal(self.free_bytes)} are free{enough}")
        print(
            f"about {max(1, self.seconds):,.0f} s: an estimate, from a trial just now, the files of which are removed; "
            "reading the source, or downloading it, adds to that"
        )


def forecast(
    source: str | Path, target: str | Path | None = None, dtype: Any = None, revision: str | None = None
) -> Forecast:
    """Forecasts `convert` with the same arguments; writing is timed on the target's file system, or the current one.

    Only configs are read, and downloaded from a hub. If they do not state the dtype, the headers of the weights do;
    weights on the hub are assumed to be float32, as in Transformers. Mistral, Meta and GGUF files state part of the
    config by their tensors.

    Raises:
      InputError: `convert` would reject the source by its config, or the target.
    """
    kind = dtype and checkpoint.float_dtype(dtype)
    if target is not None:
        require_vacant(Path(target))
    opened = open_source(source, revision)
    translation = translate(opened)
    config = translation.config
    parameters = sum(math.prod(parameter.shape) for parameter in _abstract_parameters(config))
    name, nbytes = _written(translation, parameters, kind)
    free, pace = _measured(_place(Path() if target is None else Path(target).parent), nbytes)
    return Forecast(
        source=str(source),
        model_type=opened.config["model_type"],
        parameters=parameters,
        layers=config.layers.num_layers,
        embed_dim=config.embed_dim,
        heads=config.layers.block(0).attention.heads,
        vocab_size=config.vocab_size,
        context=config.max_position_embeddings,
        dtype=name,
        bytes=nbytes,
        free_bytes=free,
        seconds=round(nbytes * pace, 1),
    )


def _written(translation: Translation, parameters: int, dtype: np.dtype | None) -> tuple[str, int]:
    """Returns the dtype that would be stored, and the size; a dtype in the config may be outdated."""
    source, config, table = translation
    if dtype is not None:
        return str(dtype), sum(
            math.prod(p.shape) * np.dtype(p.dtype).itemsize for p in _abstract_parameters(config, dtype)
        )
    said = declared_dtype(source)
    if said is None and _is_at_hand(source.path):
        arrays = claim(table, abstract(config), source.tensors)
        return str(stored_dtype(source)), sum(array.nbytes for array in arrays)
    kind = said or np.dtype(np.float32)
    width = round(_indexed_bytes(source.path) / parameters)
    if width not in _BY_WIDTH or width == kind.itemsize:  # less is quantized, and is not written so
        return str(kind), parameters * kind.itemsize
    return _BY_WIDTH[width], parameters * width


def _abstract_parameters(config: DecoderConfig, dtype: Any = np.float32) -> list[Any]:
    return [parameter for _, parameter in named_parameters(abstract(config, dtype))]


def _is_at_hand(path: Path) -> bool:
    """Whether the weights are present; those of a hub repository may not be."""
    return path.is_file() or any(file.suffix in (".safetensors", ".bin", ".pth", ".gguf") for file in path.iterdir())


def _indexed_bytes(path: Path) -> int:
    """Returns the size of all shards; 0 if no index states it."""
    for name in INDEXES:
        if os.path.lexists(path / name.removesuffix(INDEX)):  # goes before its shards
            return 0
        if os.path.isfile(path / name):
            metadata = read_json(path / name).get("metadata")
            total = None
            if isinstance(metadata, dict):
                total = metadata.get("total_size")
            if isinstance(total, int) and total > 0:
                return total
            return 0
    return 0


def _place(directory: Path) -> Path:
    """Returns the directory, or its first parent that exists."""
    directory = directory.absolute()
    return next(place for place in (directory, *directory.parents) if os.path.lexists(place))


def _measured(place: Path, nbytes: int) -> tuple[int, float]:
    """Returns the free bytes, and the seconds to write one byte including its checksum."""
    try:
        free = disk_usage(place).free
        count = max(1, min(PROBE_BYTES, nbytes, free // 2) // 4)
        weights = np.random.default_rng(0).standard_normal(count, np.float32)
        with hidden_directory(place, "probe") as work:
            _timed_write(work / "first", weights[:1])  # imports and pools
            return free, _timed_write(work / "arrays", weights) / weights.nbytes
    except OSError as error:
        raise InputError(f"{place}: cannot be written: {error}") from None


def _timed_write(path: Path, weights: np.ndarray) -> float:
    began = time.perf_counter()
    write_arrays(path, [ArraySource("probe", weights.shape, weights.dtype, (), lambda: weights)], "trying")
    return time.perf_counter() - began
