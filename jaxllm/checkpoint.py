"""The native checkpoint: one directory of Orbax arrays, our config, the tokenizer's files and a manifest.

    NAME/config.json     the config of the model (`jaxllm.config`)
    NAME/manifest.json   format version, source, dtype, a checksum for each tensor and each other file
    NAME/arrays/         Orbax (OCDBT) arrays under the model's own parameter names, unstacked
    NAME/...             the original tokenizer files

It is written next to its target and then renamed, so a checkpoint that exists is complete.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from jaxllm.arrays import (
    ArraySource,
    RestoreSpec,
    checksum,
    read_array,
    read_arrays,
    read_blocks,
    stored_arrays,
    write_arrays,
)
from jaxllm.atomic_write import atomic_directory
from jaxllm.config import ModelConfig, from_json, to_json
from jaxllm.errors import InputError
from jaxllm.models.abstract import abstract
from jaxllm.models.decoder import Decoder
from jaxllm.nn.parameter import named_parameters, replace_parameters
from jaxllm.progress import byte_progress
from jaxllm.sharding import MESH_AXES, make_mesh

FORMAT = 2
DTYPES = ("float32", "bfloat16", "float16", "float64")
_ARRAYS = "arrays"


class File(Protocol):
    """A small file to copy: a path, or any object with a name and content."""

    @property
    def name(self) -> str:
        """Name without a directory."""
        ...

    def read_bytes(self) -> bytes:
        """Returns the content."""
        ...


def is_checkpoint(path: Path) -> bool:
    """Whether a directory holds a native checkpoint."""
    return (path / "manifest.json").is_file() and (path / _ARRAYS).is_dir()


def save(
    target: Path,
    config: ModelConfig,
    arrays: Iterable[ArraySource],
    manifest: Mapping[str, Any],
    files: Iterable[File] = (),
) -> Path:
    """Writes a checkpoint of the given arrays, which are read a few rows at a time.

    Raises:
      InputError: the target exists, or cannot be written.
    """
    with atomic_directory(target) as work:
        checksums = write_arrays(work / _ARRAYS, list(arrays))
        for file in files:
            (work / file.name).write_bytes(file.read_bytes())
        _write_json(work / "config.json", to_json(config))
        described = {"format": FORMAT, **manifest, "checksums": checksums, "files": _small_files(work)}
        _write_json(work / "manifest.json", described)
    return target


def _small_files(work: Path) -> dict[str, str | None]:
    """Returns a checksum for each file except those of array data, which the tensors' checksums cover."""
    files = sorted(file for file in work.rglob("*") if file.is_file() and file.parent.name != "d")
    return {file.relative_to(work).as_posix(): _file_checksum(file) for file in files}


def read_manifest(path: Path) -> dict[str, Any]:
    """Returns the manifest of a checkpoint.

    Raises:
      InputError: there is no checkpoint, it cannot be read, or it has another format version.
    """
    if not is_checkpoint(path):
        raise InputError(f"{path}: not a jaxllm checkpoint (no manifest.json beside {_ARRAYS}/)")
    manifest = _read_json(path / "manifest.json")
    if manifest.get("format") != FORMAT:
        raise InputError(
            f"{path}: checkpoint format {manifest.get('format')}, expected {FORMAT}; convert the source again"
        )
    for key, kind in (("dtype", str), ("checksums", dict), ("files", dict)):
        if not isinstance(manifest.get(key), kind):
            raise InputError(f"{path}: manifest.json has no {key}, or one of another kind")
    return manifest


def read_config(path: Path) -> Any:
    """Returns the `ModelConfig` of a checkpoint.

    Raises:
      InputError: the config cannot be read, or is not that of a model.
    """
    config = from_json(_read_json(path / "config.json"))
    if not isinstance(config, ModelConfig):
        raise InputError(f"{path / 'config.json'}: not the config of a model")
    return config


def restore(path: Path, mesh: Mesh | None = None, dtype: Any = None, offload: bool = False) -> Decoder:
    """Restores the model, each parameter directly into its shards; on one device if there is no mesh.

    With `offload` the layers stay in host memory, and each is prefetched before it is used.

    Raises:
      InputError: `path` is not a complete checkpoint, or the model cannot be split over the mesh.
    """
    manifest = read_manifest(path)
    if mesh is None:
        mesh = make_mesh(tensor=1, devices=jax.local_devices()[:1])
    if not (isinstance(mesh, Mesh) and set(mesh.axis_types) == {AxisType.Auto} and mesh.axis_names == MESH_AXES):
        raise InputError(f"mesh={mesh!r}: must be one of jaxllm.make_mesh")
    dtype = _computable(float_dtype(dtype or manifest["dtype"]))
    model = abstract(read_config(path), dtype, mesh, offload)
    wanted = {}
    names = set()
    for name, parameter in named_parameters(model):
        shape = parameter.get_raw_value()
        parts = model.stage_names(name)
        wanted[name] = RestoreSpec(shape.shape, shape.dtype, shape.sharding, parts)
        names.update({name} if parts is None else filter(None, parts))
    if differing := names ^ manifest["checksums"].keys():
        raise InputError(f"{path}: tensor {min(differing)}: only one of config.json and manifest.json has it")
    return replace_parameters(model, read_arrays(path / _ARRAYS, wanted))


def damaged(path: Path) -> list[str]:
    """Returns the names of the tensors and files of a checkpoint that do not match their checksums.

    Files of array data are checked through the tensors that are read from them. If the arrays cannot be opened, the
    reason is in the list.

    Raises:
      InputError: `path` is not a checkpoint.
    """
    manifest = read_manifest(path)
    checksums = manifest["checksums"]
    files = manifest["files"]
    found = [name for name in files if _file_checksum(path / name) != files[name]]
    try:
        arrays = stored(path)
    except InputError as error:
        return [*found, str(error)]
    total = sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays.values())
    with byte_progress("checking", total) as advance:
        for name in dict.fromkeys([*checksums, *arrays]):
            if _tensor_checksum(path, name, advance) != checksums.get(name):
                found.append(name)
    return found


def _tensor_checksum(path: Path, name: str, advance: Callable[[int], None]) -> str | None:
    def counted() -> Iterator[np.ndarray]:
        for block in read_blocks(path / _ARRAYS, name):
            advance(block.nbytes)
            yield block

    try:
        return checksum(counted())
    except InputError:
        return None


def _file_checksum(path: Path) -> str | None:
    try:
        return checksum([np.frombuffer(path.read_bytes(), np.uint8)])
    except OSError:
        return None


def stored(path: Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shape and stored dtype of every array of a checkpoint.

    Raises:
      InputError: they cannot be read.
    """
    return stored_arrays(path / _ARRAYS)


def read_stored(path: Path, name: str) -> np.ndarray:
    """Returns one array of a checkpoint in its stored dtype.

    Raises:
      InputError: it cannot be read.
    """
    return read_array(path / _ARRAYS, name)


def float_dtype(name: Any) -> np.dtype:
    """Returns the floating-point dtype of that name.

    Raises:
      InputError: it is not one of `DTYPES`.
    """
    try:
        dtype = jnp.dtype(name)
    except TypeError:
        dtype = None
    if dtype is None or dtype.name not in DTYPES:
        raise InputError(f"dtype {str(name)!r}: must be {', '.join(DTYPES)}")
    return dtype


def _computable(dtype: np.dtype) -> np.dtype:
    if dtype == jnp.float64 != jnp.result_type(float):
        raise InputError("dtype float64: needs JAX's 64-bit mode: set JAX_ENABLE_X64=1, or give another dtype")
    return dtype


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: not a JSON object")
    return data
