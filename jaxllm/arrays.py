"""Named arrays in an Orbax store (OCDBT): written a group at a time, read straight into their shards."""

import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxllm.errors import InputError
from jaxllm.progress import byte_progress

_GROUP_BYTES = 1 << 28  # written at a time, so that memory does not grow with the model


class Array(NamedTuple):
    """A tensor to be saved: its size is known before it is read."""

    name: str
    nbytes: int
    read: Callable[[], np.ndarray]


def write_arrays(path: Path, arrays: Sequence[Array], description: str = "converting") -> dict[str, str]:
    """Writes a store of nested names (at the dots) with a bar for progress; a checksum for each name.

    Raises:
        OSError: it cannot be written.
    """
    from orbax.checkpoint.experimental import v1 as ocp

    total, checksums = sum(array.nbytes for array in arrays), {}
    require_room(path.parent, total)
    with byte_progress(description, total) as advance:
        for group in _groups(arrays):
            values = {array.name: np.ascontiguousarray(array.read()) for array in group}
            with _orbax_errors(OSError, ""):
                ocp.partial.save(str(path.absolute()), _nested(values))
            checksums |= {name: checksum(value) for name, value in values.items()}
            advance(sum(array.nbytes for array in group))
    with _orbax_errors(OSError, ""):
        ocp.partial.finalize(str(path.absolute()))
    return checksums


def require_room(directory: Path, nbytes: int) -> None:
    """Raises OSError where a file system has less room than that."""
    if nbytes > (free := shutil.disk_usage(directory).free):
        raise OSError(f"{nbytes / 1e6:,.0f} MB are needed, but only {free / 1e6:,.0f} MB are free")


def checksum(array: np.ndarray) -> str:
    """The CRC-32 of the data."""
    return f"crc32:{zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data):08x}"


def stored_arrays(path: Path) -> dict[str, jax.ShapeDtypeStruct]:
    """The shape and dtype of every array, as stored; nothing else is read.

    Raises:
        InputError: the store is damaged.
    """
    import orbax.checkpoint as ocp

    with _orbax_errors(InputError, f"{path.parent}: cannot be read: "):
        state: Any = path.absolute() / "state"  # any path will do, whatever the annotation asks for
        tree = ocp.PyTreeCheckpointHandler().metadata(state).tree
        return {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in _flat(tree)}


def read_arrays(path: Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of the given names, each as its `ShapeDtypeStruct` says, or as it is stored, for `...`.

    Raises:
        InputError: the store is damaged, or lacks one of the names.
    """
    import orbax.checkpoint as ocp

    tree = _nested(wanted)

    def how(leaf: Any) -> ocp.RestoreArgs:
        if leaf is ...:
            return ocp.RestoreArgs(restore_type=np.ndarray)
        return ocp.ArrayRestoreArgs(sharding=leaf.sharding, dtype=leaf.dtype)

    with _orbax_errors(InputError, f"{path.parent}: cannot be restored: "), ocp.PyTreeCheckpointer() as reader:
        arguments = ocp.args.PyTreeRestore(tree, restore_args=jax.tree.map(how, tree), partial_restore=True)
        arrays = dict(_flat(reader.restore(path.absolute() / "state", arguments)))
    for name in wanted:
        if not isinstance(arrays.get(name), np.ndarray | jax.Array):  # a partial restore leaves what it does not find
            raise InputError(f"{path.parent}: tensor {name}: missing")
    return arrays


@contextmanager
def _orbax_errors(kind: type[Exception], problem: str) -> Iterator[None]:
    """Told in one line: Orbax raises nothing narrower than Exception."""
    try:
        yield
    except Exception as error:
        raise kind(problem + " ".join(str(error).split())[:200]) from error


def _groups(arrays: Sequence[Array]) -> Iterator[list[Array]]:
    """Consecutive arrays, in groups of at most `_GROUP_BYTES` or one array."""
    group: list[Array] = []
    for array in arrays:
        if group and sum(member.nbytes for member in group) + array.nbytes > _GROUP_BYTES:
            yield group
            group = []
        group.append(array)
    yield group


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
