"""Named arrays into an Orbax store (OCDBT), a group at a time."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxllm.arrays.store import told
from jaxllm.arrays.values import checksum
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
            with told("", OSError):
                ocp.partial.save(str(path.absolute()), _nested(values))
            checksums |= {name: checksum(value) for name, value in values.items()}
            advance(sum(array.nbytes for array in group))
    with told("", OSError):
        ocp.partial.finalize(str(path.absolute()))
    return checksums


def require_room(directory: Path, nbytes: int) -> None:
    """Raises OSError where a file system has less room than that."""
    if nbytes > (free := shutil.disk_usage(directory).free):
        raise OSError(f"{nbytes / 1e6:,.0f} MB are needed, but only {free / 1e6:,.0f} MB are free")


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
