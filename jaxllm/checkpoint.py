"""The native checkpoint: one directory of Orbax arrays, our config, the tokenizer's files and a manifest.

    NAME/config.json     what the model is made of (`jaxllm.config`)
    NAME/manifest.json   format version, source, dtype, a checksum per tensor
    NAME/arrays/         Orbax (OCDBT) arrays under the model's own parameter names, unstacked
    NAME/...             tokenizer files, as they came

It is written beside its target and renamed into place, so what exists is whole.
"""

import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding

from jaxllm import config
from jaxllm.errors import InputError
from jaxllm.models.decoder import Decoder, abstract
from jaxllm.nn.parameter import named_parameters, replace_parameters
from jaxllm.progress import byte_progress
from jaxllm.sharding import named_sharding

FORMAT = 1
_ARRAYS = "arrays"
_GROUP_BYTES = 1 << 28  # Orbax writes this much at a time, so memory does not grow with the model


class Array(NamedTuple):
    """A tensor to be saved: its size is known before it is read."""

    name: str
    nbytes: int
    read: Callable[[], np.ndarray]


def is_checkpoint(path: Path) -> bool:
    """Whether a directory holds a native checkpoint."""
    return (path / "manifest.json").is_file() and (path / _ARRAYS).is_dir()


def save(
    target: Path, part: config.Decoder, arrays: Iterable[Array], manifest: Mapping[str, Any], files: Iterable[Path] = ()
) -> Path:
    """Writes a checkpoint of the given arrays, which are read a group at a time.

    Raises:
        InputError: the target exists, or cannot be written.
    """
    with _written_beside(target) as work:
        checksums = _save_arrays(work / _ARRAYS, list(arrays))
        for file in files:
            shutil.copyfile(file, work / file.name)
        _write_json(work / "config.json", config.to_json(part))
        _write_json(work / "manifest.json", {"format": FORMAT, **manifest, "checksums": checksums})
    return target


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


def restore(path: Path, mesh: Mesh | None = None, dtype: Any = None) -> Decoder:
    """The model, each parameter read straight into its shards (on one device without a mesh).

    Raises:
        InputError: what is at `path` is not a whole checkpoint, or does not divide over the mesh.
    """
    import orbax.checkpoint as ocp

    manifest = read_manifest(path)
    dtype = _computable(float_dtype(dtype or manifest["dtype"]))
    model = abstract(read_config(path), dtype)
    wanted = {}
    for name, parameter in named_parameters(model):
        placed = SingleDeviceSharding(jax.devices()[0])
        if mesh is not None:
            placed = named_sharding(name, parameter.axes, parameter.shape, mesh)
        wanted[name] = jax.ShapeDtypeStruct(parameter.shape, dtype, sharding=placed)
    tree = _nested(wanted)
    try:
        with ocp.PyTreeCheckpointer() as reader:
            arguments = ocp.args.PyTreeRestore(tree, restore_args=ocp.checkpoint_utils.construct_restore_args(tree))
            arrays = reader.restore(path.absolute() / _ARRAYS / "state", arguments)
    except Exception as error:  # Orbax raises nothing narrower for unreadable data
        raise InputError(f"{path}: damaged checkpoint: {str(error).splitlines()[0][:200]}") from error
    return replace_parameters(model, dict(_flat(arrays)))


def float_dtype(name: Any) -> np.dtype:
    """The floating-point dtype of that name, to be stored or computed in.

    Raises:
        InputError: not a floating-point dtype.
    """
    try:
        dtype = jnp.dtype(name)
    except TypeError:
        raise InputError(f"dtype {name!r}: not a dtype; use float32, bfloat16, float16 or float64") from None
    if not jnp.issubdtype(dtype, jnp.floating):
        raise InputError(f"dtype {name!r}: models are computed in floating point")
    return dtype


def _computable(dtype: np.dtype) -> np.dtype:
    if dtype == jnp.float64 != jnp.result_type(float):
        raise InputError("dtype float64: needs JAX's 64-bit mode: set JAX_ENABLE_X64=1, or give another dtype")
    return dtype


def _save_arrays(path: Path, arrays: list[Array]) -> dict[str, str]:
    from orbax.checkpoint.experimental import v1 as ocp

    checksums: dict[str, str] = {}
    with byte_progress("converting", sum(array.nbytes for array in arrays)) as advance:
        for group in _groups(arrays):
            values = {array.name: np.ascontiguousarray(array.read()) for array in group}
            ocp.partial.save(str(path.absolute()), _nested(values))
            checksums |= {name: f"crc32:{zlib.crc32(value.view(np.uint8).data):08x}" for name, value in values.items()}
            advance(sum(array.nbytes for array in group))
    ocp.partial.finalize(str(path.absolute()))
    return checksums


def _groups(arrays: list[Array]) -> Iterator[list[Array]]:
    """Consecutive arrays, in groups of at most `_GROUP_BYTES` or one array."""
    group: list[Array] = []
    for array in arrays:
        if group and sum(member.nbytes for member in group) + array.nbytes > _GROUP_BYTES:
            yield group
            group = []
        group.append(array)
    yield group


@contextmanager
def _written_beside(target: Path) -> Iterator[Path]:
    """A hidden directory beside the target that becomes the target at the end, or vanishes."""
    if target.exists():
        raise InputError(f"{target}: exists already; remove it or choose another target")
    work = target.parent / f".{target.name}.{os.getpid()}.partial"
    try:
        work.mkdir(parents=True)
        yield work
        work.rename(target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, last = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: not a JSON object")
    return data
