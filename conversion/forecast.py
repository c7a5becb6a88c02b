"""What a conversion would do, told by the source's config: nothing of the weights is read or written."""

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage
from typing import Any

import numpy as np

from conversion.convert import Translation, said_dtype, stored_dtype, translate
from conversion.files import read_json
from conversion.source import INDEX, INDEXES, open_source
from conversion.table import claim
from jaxllm import checkpoint, config
from jaxllm.arrays import Array, write_arrays
from jaxllm.errors import InputError
from jaxllm.models.decoder import abstract
from jaxllm.nn.parameter import named_parameters
from jaxllm.workspace import hidden, require_vacant

PROBE_BYTES = 1 << 26
_BY_WIDTH = {2: "16-bit floats", 4: "float32", 8: "float64"}


@dataclass(frozen=True)
class Forecast:
    """What would be converted to what; `seconds` is an estimate, reading or downloading the source not counted."""

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
        """A few lines on stdout."""
        from rich.filesize import decimal

        enough = "" if self.bytes <= self.free_bytes else ", NOT ENOUGH"
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
    """What `convert` would do with the same arguments; for its file system the target's is tried (or the current one).

    Only configs are read (of a hub, downloaded). A dtype that they leave open is told by the headers of the weights,
    or where these are still on the hub taken for float32, as Transformers takes it. Mistral's, Meta's and GGUF files
    tell part of the config by their tensors.

    Raises:
        InputError: `convert` would refuse the source by its config, or the target.
    """
    kind = dtype and checkpoint.float_dtype(dtype)
    if target is not None:
        require_vacant(Path(target))
    opened = open_source(source, revision)
    translation = translate(opened)
    part = translation.part
    parameters = sum(math.prod(parameter.shape) for parameter in _parameters(part))
    name, nbytes = _written(translation, parameters, kind)
    free, pace = _measured(_place(Path() if target is None else Path(target).parent), nbytes)
    return Forecast(
        source=str(source),
        model_type=opened.config["model_type"],
        parameters=parameters,
        layers=part.num_layers,
        embed_dim=part.embed_dim,
        heads=part.block(0).attention.heads,
        vocab_size=part.vocab_size,
        context=part.context,
        dtype=name,
        bytes=nbytes,
        free_bytes=free,
        seconds=round(nbytes * pace, 1),
    )


def _written(translation: Translation, parameters: int, dtype: np.dtype | None) -> tuple[str, int]:
    """The dtype that the weights would be stored in, and their size; what a config says of its own may be outdated."""
    source, part, table = translation
    if dtype is not None:
        return str(dtype), sum(math.prod(p.shape) * np.dtype(p.dtype).itemsize for p in _parameters(part, dtype))
    said = said_dtype(source)
    if said is None and _is_at_hand(source.path):
        arrays = claim(table, abstract(part), source.tensors)
        return str(stored_dtype(source)), sum(array.nbytes for array in arrays)
    kind = said or np.dtype(np.float32)
    width = round(_indexed_bytes(source.path) / parameters)
    if width not in _BY_WIDTH or width == kind.itemsize:  # less is quantized, and is not written so
        return str(kind), parameters * kind.itemsize
    return _BY_WIDTH[width], parameters * width


def _parameters(part: config.Decoder, dtype: Any = np.float32) -> list[Any]:
    return [parameter for _, parameter in named_parameters(abstract(part, dtype))]


def _is_at_hand(path: Path) -> bool:
    """Whether weights are there; a hub's may not be."""
    return path.is_file() or any(file.suffix in (".safetensors", ".bin", ".pth", ".gguf") for file in path.iterdir())


def _indexed_bytes(path: Path) -> int:
    """The size of all shards, or 0 where no index of them tells it."""
    for name in INDEXES:
        if os.path.lexists(path / name.removesuffix(INDEX)):  # goes before its shards
            return 0
        if os.path.isfile(path / name):
            metadata = read_json(path / name).get("metadata")
            total = metadata.get("total_size") if isinstance(metadata, dict) else None
            return total if isinstance(total, int) and total > 0 else 0
    return 0


def _place(directory: Path) -> Path:
    """The directory, or the first above it that is there."""
    directory = directory.absolute()
    return next(place for place in (directory, *directory.parents) if os.path.lexists(place))


def _measured(place: Path, nbytes: int) -> tuple[int, float]:
    """The bytes that are free there, and how many seconds one takes to write, checksums included."""
    try:
        free = disk_usage(place).free
        count = max(1, min(PROBE_BYTES, nbytes, free // 2) // 4)
        weights = np.random.default_rng(0).standard_normal(count, np.float32)
        with hidden(place, "probe") as work:
            _timed_write(work / "first", weights[:1])  # imports and pools
            return free, _timed_write(work / "arrays", weights) / weights.nbytes
    except OSError as error:
        raise InputError(f"{place}: cannot be written: {error}") from None


def _timed_write(path: Path, weights: np.ndarray) -> float:
    began = time.perf_counter()
    write_arrays(path, [Array("probe", weights.shape, weights.dtype, (), lambda: weights)], "trying")
    return time.perf_counter() - began
