"""The native checkpoint: one directory of Orbax arrays, our config, the tokenizer's files and a manifest.

    NAME/config.json     what the model is made of (`jaxllm.config`)
    NAME/manifest.json   format version, source, dtype, a checksum per tensor and per other file
    NAME/arrays/         Orbax (OCDBT) arrays under the model's own parameter names, unstacked
    NAME/...             tokenizer files, as they came

It is written beside its target and renamed into place, so what exists is whole.
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

from jaxllm import config
from jaxllm.arrays import Array, Wanted, checksum, read_array, read_arrays, read_blocks, stored_arrays, write_arrays
from jaxllm.errors import InputError
from jaxllm.models.decoder import Decoder, abstract
from jaxllm.nn.parameter import named_parameters, replace_parameters
from jaxllm.progress import byte_progress
from jaxllm.sharding import MESH_AXES, make_mesh
from jaxllm.workspace import written_beside

FORMAT = 1
DTYPES = ("float32", "bfloat16", "float16", "float64")
_ARRAYS = "arrays"


class File(Protocol):
    """A small file that comes along: a path, or anything with a name and content."""

    @property
    def name(self) -> str:
        """Without a directory."""
        ...

    def read_bytes(self) -> bytes:
        """All that it holds."""
        ...


def is_checkpoint(path: Path) -> bool:
    """Whether a directory holds a native checkpoint."""
    return (path / "manifest.json").is_file() and (path / _ARRAYS).is_dir()


def save(
    target: Path, part: config.Decoder, arrays: Iterable[Array], manifest: Mapping[str, Any], files: Iterable[File] = ()
) -> Path:
    """Writes a checkpoint of the given arrays, which are read a few rows at a time.

    Raises:
        InputError: the target exists, or cannot be written.
    """
    with written_beside(target) as work:
        checksums = write_arrays(work / _ARRAYS, list(arrays))
        for file in files:
            (work / file.name).write_bytes(file.read_bytes())
        _write_json(work / "config.json", config.to_json(part))
        described = {"format": FORMAT, **manifest, "checksums": checksums, "files": _small_files(work)}
        _write_json(work / "manifest.json", described)
    return target


def _small_files(work: Path) -> dict[str, str | None]:
    """A checksum for each file but those of data, which the tensors' stand for."""
    files = sorted(file for file in work.rglob("*") if file.is_file() and file.parent.name != "d")
    return {file.relative_to(work).as_posix(): _file_checksum(file) for file in files}


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint.

    Raises:
        InputError: no checkpoint, an unreadable one, or one of another format version.
    """
    if not is_checkpoint(path):
        raise InputError(f"{path}: not a jaxllm checkpoint (no manifest.json beside {_ARRAYS}/)")
    manifest = _read_json(path / "manifest.json")
    if manifest.get("format") != FORMAT:
        raise InputError(f"{path}: checkpoint format {manifest.get('format')}, but this jaxllm reads {FORMAT}")
    manifest.setdefault("files", {})  # not in the first ones
    for key, kind in (("dtype", str), ("checksums", dict), ("files", dict)):
        if not isinstance(manifest.get(key), kind):
            raise InputError(f"{path}: manifest.json has no {key}, or one of another kind")
    return manifest


def read_config(path: Path) -> config.Decoder:
    """What the model of a checkpoint is made of.

    Raises:
        InputError: the config is unreadable, or is not a model's.
    """
    part = config.from_json(_read_json(path / "config.json"))
    if not isinstance(part, config.Decoder):
        raise InputError(f"{path / 'config.json'}: not the config of a model")
    return part


def restore(path: Path, mesh: Mesh | None = None, dtype: Any = None, offload: bool = False) -> Decoder:
    """The model, each parameter read straight into its shards (on one device without a mesh).

    With `offload` the layers stay in the hosts' memory, from where devices fetch each as it is needed.

    Raises:
        InputError: what is at `path` is not a whole checkpoint, or does not divide over the mesh.
    """
    manifest = read_manifest(path)
    if mesh is None:
        mesh = make_mesh(tensor=1, devices=jax.local_devices()[:1])
    if not (isinstance(mesh, Mesh) and set(mesh.axis_types) == {AxisType.Auto} and mesh.axis_names == MESH_AXES):
        raise InputError(f"mesh={mesh!r}: must be one of jaxllm.make_mesh")
    dtype = _computable(float_dtype(dtype or manifest["dtype"]))
    model, wanted, names = abstract(read_config(path), dtype, mesh, offload), {}, set()
    for name, parameter in named_parameters(model):
        shape, parts = parameter.get_raw_value(), model.stage_names(name)
        wanted[name] = Wanted(shape.shape, shape.dtype, shape.sharding, parts)
        names.update({name} if parts is None else filter(None, parts))
    if differing := names ^ manifest["checksums"].keys():
        raise InputError(f"{path}: tensor {min(differing)}: only one of config.json and manifest.json has it")
    return replace_parameters(model, read_arrays(path / _ARRAYS, wanted))


def damaged(path: Path) -> list[str]:
    """The names of the tensors and files of a checkpoint that are not what was written, by their checksums.

    Of the arrays' files what counts is what the tensors are read from; if nothing can be, the reason is in the list.

    Raises:
        InputError: what is at `path` is not a checkpoint.
    """
    manifest = read_manifest(path)
    checksums, files = manifest["checksums"], manifest["files"]
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
    """The shape of every array of a checkpoint, and the dtype that it is stored in.

    Raises:
        InputError: they cannot be read.
    """
    return stored_arrays(path / _ARRAYS)


def read_stored(path: Path, name: str) -> np.ndarray:
    """One array of a checkpoint, in the dtype that it is stored in.

    Raises:
        InputError: it cannot be read.
    """
    return read_array(path / _ARRAYS, name)


def float_dtype(name: Any) -> np.dtype:
    """The floating-point dtype of that name, to be stored or computed in.

    Raises:
        InputError: none of `DTYPES`.
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
