"""Checkpoints of any format, as Hugging Face spells them: names and arrays that are read when asked for."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shown  # short, however long or deep
from typing import Any

from conversion.files import Tensor, first, plain_name, read_json, require_file
from conversion.hub import download
from conversion.layouts import present
from conversion.params import read_params
from conversion.pickled import read_pickle
from conversion.safetensor_files import read_safetensors
from jaxllm.errors import InputError

__all__ = ["Source", "Tensor", "locate", "open_source"]

AUXILIARY = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
)
INDEX = ".index.json"
DESCRIPTIONS = (
    *("config.json", "params.json"),
    *(f"{stem}{INDEX}" for stem in ("model.safetensors", "pytorch_model.bin", "consolidated.safetensors")),
)
REPOSITORY = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*", re.ASCII)

Reader = Callable[[Path], dict[str, Tensor]]


@dataclass(frozen=True)
class Source:
    """A checkpoint as Hugging Face spells it, whatever files it came in.

    `layout` is "safetensors", "pytorch", "mistral" or "meta"; `config` is config.json, or for the latter two what it
    would have been; `tensors` go by Hugging Face's names; `auxiliary` are the files of the tokenizer and of
    generation, to be carried along as they came.
    """

    path: Path
    layout: str
    config: dict[str, Any]
    tensors: Mapping[str, Tensor]
    auxiliary: tuple[Path, ...]


def open_source(path_or_repo: str | Path, revision: str | None = None) -> Source:
    """Opens a directory, or a repository of the hub by its name, `owner/name`.

    Recognised are Hugging Face's layout (config.json with model.safetensors or pytorch_model.bin, in one file or in
    shards with an index), Mistral's and Meta's own (params.json with consolidated.safetensors or the model-parallel
    shards consolidated.NN.pth), in this order and with safetensors before pickles. The names, shapes and dtypes of
    all tensors are checked here; the data are read by each tensor's `read()`.

    Raises:
        InputError: it is no such checkpoint, or not a whole one; one line that names the culprit.
    """
    path = locate(path_or_repo, revision)
    layout, config, tensors = _open(path)
    auxiliary = tuple(path / name for name in AUXILIARY if os.path.isfile(path / name))
    return Source(path, layout, config, tensors, auxiliary)


def locate(path_or_repo: str | Path, revision: str | None = None) -> Path:
    """The directory of a checkpoint: the path given, or where the hub's files of that name lie.

    Raises InputError if there is none.
    """
    name, path = str(path_or_repo), Path(path_or_repo).expanduser()
    if os.path.isdir(path):
        if revision is not None:
            raise InputError(f"{path}: a directory has no revision {revision!r}")
        return path
    if os.path.exists(path):
        raise InputError(f"{path}: not a directory; give the one that holds the checkpoint")
    if not REPOSITORY.fullmatch(name):
        raise InputError(f"{name!r}: this path does not exist, nor is it the name of a hub repository, owner/name")
    return download(name, revision, DESCRIPTIONS + AUXILIARY)


def _open(path: Path) -> tuple[str, dict[str, Any], Mapping[str, Tensor]]:
    readers: tuple[tuple[str, str, Reader], ...] = (
        ("safetensors", "model.safetensors", read_safetensors),
        ("pytorch", "pytorch_model.bin", read_pickle),
    )
    for layout, stem, read in readers:
        if _has(path, stem) or _has(path, stem + INDEX):
            return layout, read_json(path / "config.json"), _read_weights(path, stem, read)
    if _has(path, "params.json"):
        params = read_params(path / "params.json")
        return params.layout, *present(params, _read_own(path))
    raise InputError(
        f"{path}: not a checkpoint: no model.safetensors, pytorch_model.bin (or their .index.json) or params.json"
    )


def _has(path: Path, name: str) -> bool:
    return os.path.lexists(path / name)  # a link that leads nowhere is there, and an error of its own


def _read_own(path: Path) -> list[dict[str, Tensor]]:
    """The model-parallel shards of Mistral's and Meta's own layouts."""
    stem = "consolidated.safetensors"
    if _has(path, stem) or _has(path, stem + INDEX):
        return [_read_weights(path, stem, read_safetensors)]
    numbers = {int(file.name.split(".")[1]) for file in path.glob("consolidated.*.pth") if file.name[13:-4].isdecimal()}
    # By number: shard 3 missing must not let shard 4 take its place. There is always a first one.
    return [read_pickle(path / f"consolidated.{i:02}.pth") for i in range(max(numbers, default=0) + 1)]


def _read_weights(path: Path, stem: str, read: Reader) -> dict[str, Tensor]:
    return read(path / stem) if _has(path, stem) else _read_shards(path / (stem + INDEX), read)


def _read_shards(index: Path, read: Reader) -> dict[str, Tensor]:
    """The tensors that an index lists, each from the file it names, which must agree with it."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index}: has no 'weight_map' of tensors to files")
    for name, shard in weight_map.items():
        if not plain_name(shard):
            raise InputError(f"{index}: tensor {name!r} lies in {shown(shard)}, not a file of the same directory")
    tensors: dict[str, Tensor] = {}
    for shard in dict.fromkeys(weight_map.values()):
        require_file(index.parent / shard)
    for shard in dict.fromkeys(weight_map.values()):
        held = read(index.parent / shard)
        _check_shard(index, shard, weight_map, held)
        tensors |= held
    return tensors


def _check_shard(index: Path, shard: str, weight_map: dict[str, str], held: Mapping[str, Tensor]) -> None:
    listed = {name for name, file in weight_map.items() if file == shard}
    if missing := listed - held.keys():
        raise InputError(f"{index.parent / shard}: tensor {first(missing)} is missing, {index.name} says it is here")
    if extra := held.keys() - listed:
        where = weight_map.get(min(extra))
        problem = f"{index.name} does not list it" if where is None else f"also in {where}"
        raise InputError(f"{index.parent / shard}: tensor {first(extra)}: {problem}")
