"""Exports a native checkpoint to Hugging Face's layout, bit for bit."""

import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from conversion.architecture import Architecture
from conversion.architectures import architecture as registered_architecture
from conversion.binding import Binding, bind
from conversion.files import Tensor
from conversion.safetensor_files import write_safetensors
from jaxllm import checkpoint
from jaxllm.arrays import checksum, require_room
from jaxllm.atomic_write import atomic_directory
from jaxllm.errors import InputError
from jaxllm.models.abstract import abstract
from jaxllm.nn.parameter import named_parameters
from jaxllm.progress import byte_progress

WEIGHTS = "model.safetensors"
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
OURS = {"config.json", "manifest.json"}  # files of a native checkpoint that are not copied


def export(
    source: str | Path,
    target: str | Path,
    max_shard_size: int | str = "5GB",
    architecture: Architecture | None = None,
) -> Path:
    """Writes a native checkpoint in Hugging Face's layout to the directory `target`; returns its path.

    Tensors have the names that Transformers gives them, and their stored dtypes. Unless `convert` was given a dtype,
    they are bit for bit those that were converted, except for experts of different dtypes, which share one. One
    parameter is in memory at a time. A failed export leaves nothing behind.

    Args:
      source: directory of a native checkpoint.
      target: directory to create.
      max_shard_size: largest size of a file, in bytes or as in "5GB".
      architecture: architecture of the model; by default the registered one of its `model_type`.

    Raises:
      InputError: the source is not a native checkpoint or is damaged, or the target exists or cannot be written.
    """
    source = Path(os.path.expanduser(source))
    target = Path(target)
    most = nbytes_of(max_shard_size)
    manifest = checkpoint.read_manifest(source)
    config = _config(source, manifest)
    if architecture is None:
        architecture = registered_architecture(config["model_type"])
    config = {"architectures": [architecture.class_name]} | config
    tensors = _tensors(source, architecture, manifest["checksums"])
    with atomic_directory(target) as work:
        _write_weights(work, _shards(tensors, most))
        _write_json(work / "config.json", config)
        for file in sorted(source.iterdir()):
            if file.is_file() and file.name not in OURS and not (work / file.name).exists():
                shutil.copyfile(file, work / file.name)
    return target


def _config(source: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config.json that was converted, with the stored dtype."""
    config = manifest.get("hf_config")
    dtype = manifest["dtype"]
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise InputError(f"{source}: manifest.json has no hf_config, so what Hugging Face would call it is not known")
    if dtype != manifest.get("source_dtype", dtype):
        config |= {key: dtype for key in ("torch_dtype", "dtype") if key in config}
    return config


def _tensors(source: Path, architecture: Architecture, checksums: Mapping[str, str]) -> dict[str, Tensor]:
    """Returns the tensors by Hugging Face's names, in the order of layers and bindings."""
    model = abstract(checkpoint.read_config(source))
    stored = checkpoint.stored(source)
    shapes = {name: parameter.shape for name, parameter in named_parameters(model)}
    for name in shapes.keys() | stored.keys():
        if name not in checksums or name not in stored or stored[name].shape != shapes.get(name):
            raise InputError(f"{source}: tensor {name}: not there, or not as config.json asks for it")
    bindings = sorted(bind(architecture.table.rows, model), key=lambda binding: _natural(binding.sources[0]))

    @lru_cache(maxsize=1)
    def join(index: int) -> list[np.ndarray]:
        return bindings[index].join([_read(source, name, checksums[name]) for name in bindings[index].targets])

    return {
        name: Tensor(
            binding.source_shape, _dtype(binding, stored), partial(lambda i, j: join(i)[j], index, position), source
        )
        for index, binding in enumerate(bindings)
        for position, name in enumerate(binding.sources)
    }


def _dtype(binding: Binding, stored: Mapping[str, Any]) -> np.dtype:
    return np.result_type(*{stored[name].dtype for name in binding.targets})


def _read(source: Path, name: str, expected: str) -> np.ndarray:
    array = checkpoint.read_stored(source, name)
    if checksum([array]) != expected:
        raise InputError(f"{source}: tensor {name} is damaged: not what was written")
    return array


def _natural(name: str) -> list[tuple[int, str]]:
    """Returns a sort key with which layer 2 comes before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _shards(tensors: Mapping[str, Tensor], most: int) -> dict[str, dict[str, Tensor]]:
    """Returns the tensors of each file: at most `most` bytes, or a single tensor."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > most:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    stem, suffix = WEIGHTS.split(".")
    count = len(shards)
    return {f"{stem}-{i:05}-of-{count:05}.{suffix}" if count > 1 else WEIGHTS: s for i, s in enumerate(shards, 1)}


def _write_weights(work: Path, shards: Mapping[str, Mapping[str, Tensor]]) -> None:
    tensors = [tensor for shard in shards.values() for tensor in shard.values()]
    total = sum(tensor.nbytes for tensor in tensors)
    require_room(work, total)
    with byte_progress("exporting", total) as advance:
        for file, shard in shards.items():
            write_safetensors(work / file, shard, advance)
    if len(shards) > 1:
        sizes = {"total_parameters": sum(math.prod(tensor.shape) for tensor in tensors), "total_size": total}
        weight_map = {name: file for file, shard in shards.items() for name in shard}
        _write_json(work / f"{WEIGHTS}.index.json", {"metadata": sizes, "weight_map": weight_map})


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def nbytes_of(size: int | str) -> int:
    """Returns a number of bytes that is given as such, or as in "5GB".

    Raises:
      InputError: it is neither, or 0.
    """
    found = re.fullmatch(r"\s*(\d+)\s*([KMGT]?B?)\s*", str(size).upper(), re.ASCII)
    if found is None or found[2] not in UNITS or not (nbytes := int(found[1]) * UNITS[found[2]]):
        raise InputError(f"max_shard_size {size!r}: must be a number of bytes, KB, MB, GB or TB, as in 5GB")
    return nbytes
