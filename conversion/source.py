"""Opens checkpoints of any format, and presents them as Hugging Face's: a config, and named tensors read on request."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from reprlib import repr as shown  # short, however long or deep
from typing import Any

from conversion.consolidated import to_hf
from conversion.files import Tensor, first, plain_name, read_json, require_file
from conversion.gguf import VOCABULARY, present_gguf
from conversion.hub import download, download_weights
from conversion.params_json import read_params
from conversion.pickled import read_pickle
from conversion.quantized import Quantization, unquantized
from conversion.safetensor_files import read_safetensors
from jaxllm.checkpoint import File, is_checkpoint
from jaxllm.errors import InputError
from jaxllm.text.load import only_gguf

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
    VOCABULARY,
)
INDEX = ".index.json"
INDEXES = tuple(f"{stem}{INDEX}" for stem in ("model.safetensors", "pytorch_model.bin", "consolidated.safetensors"))
DESCRIPTIONS = ("config.json", "params.json", *INDEXES)
REPOSITORY = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*", re.ASCII)

Reader = Callable[[Path], dict[str, Tensor]]
Weights = tuple[str, Mapping[str, Tensor]]  # their layout, and the tensors by Hugging Face's names
READERS: tuple[tuple[str, str, Reader], ...] = (
    ("safetensors", "model.safetensors", read_safetensors),
    ("pytorch", "pytorch_model.bin", read_pickle),
)


@dataclass(frozen=True)
class Source:
    """A checkpoint in Hugging Face's terms, whatever its files.

    Attributes:
      path: directory or file.
      config: config.json; for other layouts, the equivalent one.
      auxiliary: files of the tokenizer and of generation, to be copied, and the vocabulary of a GGUF file.

    The weights are opened, and downloaded from a hub, when they are first requested.
    """

    path: Path
    config: dict[str, Any]
    auxiliary: tuple[File, ...]
    open_weights: Callable[[], Weights]

    @property
    def layout(self) -> str:
        """The layout, "safetensors", "pytorch", "mistral", "meta" or "gguf", or the quantization, "mxfp4" or "fp8"."""
        return self._weights[0]

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors by Hugging Face's names. Their `read()` reads the data.

        Raises:
          InputError: there are none, or they are incomplete or inconsistent; one line that names the culprit.
        """
        return self._weights[1]

    @cached_property
    def _weights(self) -> Weights:
        return self.open_weights()


def open_source(path_or_repo: str | Path, revision: str | None = None) -> Source:
    """Opens a directory, a GGUF file, or a hub repository (`owner/name`).

    Recognized are Hugging Face's layout (config.json with model.safetensors or pytorch_model.bin, in one file or in
    shards with an index), then those of Mistral and Meta (params.json with consolidated.safetensors or the
    model-parallel shards consolidated.NN.pth), safetensors before pickles, and in a directory without any of these a
    GGUF file or its shards. For Hugging Face's layout only the config is read here. The other layouts state part of it
    by their tensors, so names, shapes and dtypes are read and checked.

    Raises:
      InputError: it is not a complete checkpoint; one line that names the culprit.
    """
    path = locate(path_or_repo, revision)
    if path != Path(os.path.expanduser(path_or_repo)):
        revision = path.name  # a hub's directories are named after their commits: the weights are of the same
    fetch = partial(locate, path_or_repo, revision, weights=True)
    if os.path.isfile(path):
        return _open_gguf(path, path)
    if is_checkpoint(path):
        raise InputError(f"{path}: is a native checkpoint; give the one that it was converted from")
    if not (described := _is_described(path)):
        path = fetch()
    auxiliary = tuple(path / name for name in AUXILIARY if os.path.isfile(path / name))
    if described or _is_described(path):
        config, quantization = unquantized(read_json(path / "config.json"))
        return Source(path, config, auxiliary, lambda: _open_weights(fetch(), quantization))
    if _has(path, "params.json"):
        params = read_params(path / "params.json")
        config, tensors = to_hf(params, _read_own(path))
        return Source(path, config, auxiliary, lambda: (params.layout, tensors))
    if (file := only_gguf(path)) is not None:
        return _open_gguf(path, file, auxiliary)
    raise _unrecognized(path)


def _is_described(path: Path) -> bool:
    """Whether the directory is in Hugging Face's layout, as far as that is visible without the weights."""
    if any(_has(path, name) for _, stem, _ in READERS for name in (stem, stem + INDEX)):
        return True
    others = _has(path, "params.json") or set(path.glob("*.gguf")) - {path / VOCABULARY}
    return _has(path, "config.json") and not others


def _open_weights(path: Path, quantization: Quantization | None) -> Weights:
    for layout, stem, read in READERS:
        if _has(path, stem) or _has(path, stem + INDEX):
            tensors = _read_weights(path, stem, read)
            if quantization is None:
                return (layout, tensors)
            return (quantization.name, quantization.present(tensors))
    raise _unrecognized(path)


def _unrecognized(path: Path) -> InputError:
    kinds = "model.safetensors, pytorch_model.bin, .index.json of these, params.json or .gguf"
    return InputError(f"{path}: not a checkpoint: no {kinds}")


def _open_gguf(path: Path, file: Path, auxiliary: tuple[File, ...] = ()) -> Source:
    config, tensors, vocabulary = present_gguf(file)
    carried = auxiliary if vocabulary is None else (*auxiliary, vocabulary)
    return Source(path, config, carried, lambda: ("gguf", tensors))


def locate(path_or_repo: str | Path, revision: str | None = None, *, weights: bool = False) -> Path:
    """Returns the directory or GGUF file of a checkpoint: the given path, or the local copy of a hub repository.

    Of a hub repository only the files that describe the checkpoint are downloaded, or with `weights` the weights.

    Raises:
      InputError: there is no such checkpoint.
    """
    name = str(path_or_repo)
    path = Path(os.path.expanduser(path_or_repo))
    if os.path.isdir(path):
        if revision is not None:
            raise InputError(f"{path}: a directory has no revision {revision!r}")
        return path
    if path.suffix == ".gguf" and os.path.isfile(path):
        if revision is not None:
            raise InputError(f"{path}: a file has no revision {revision!r}")
        return path
    if os.path.exists(path):
        raise InputError(f"{path}: not a directory or GGUF file; give the directory that holds the checkpoint")
    if not REPOSITORY.fullmatch(name):
        raise InputError(f"{name!r}: this path does not exist, nor is it the name of a hub repository, owner/name")
    if weights:
        return download_weights(name, revision)
    return download(name, revision, DESCRIPTIONS + AUXILIARY)


def _has(path: Path, name: str) -> bool:
    return os.path.lexists(path / name)  # a link that leads nowhere is there, and an error of its own


def _read_own(path: Path) -> list[dict[str, Tensor]]:
    """Reads the model-parallel shards of Mistral's and Meta's layouts."""
    stem = "consolidated.safetensors"
    if _has(path, stem) or _has(path, stem + INDEX):
        return [_read_weights(path, stem, read_safetensors)]
    numbers = {int(file.name.split(".")[1]) for file in path.glob("consolidated.*.pth") if file.name[13:-4].isdecimal()}
    # By number: shard 3 missing must not let shard 4 take its place. There is always a first one.
    return [read_pickle(path / f"consolidated.{i:02}.pth") for i in range(max(numbers, default=0) + 1)]


def _read_weights(path: Path, stem: str, read: Reader) -> dict[str, Tensor]:
    if _has(path, stem):
        return read(path / stem)
    return _read_shards(path / (stem + INDEX), read)


def _read_shards(index: Path, read: Reader) -> dict[str, Tensor]:
    """Reads the tensors that an index lists, each from the file that it names, which must agree."""
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
        if where is None:
            problem = f"{index.name} does not list it"
        else:
            problem = f"also in {where}"
        raise InputError(f"{index.parent / shard}: tensor {first(extra)}: {problem}")
