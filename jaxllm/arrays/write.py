"""Named arrays into an Orbax checkpoint, a few rows at a time, whatever their size."""

import asyncio
import math
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
import orbax.checkpoint
import tensorstore
from orbax.checkpoint.type_handlers import ArrayHandler, NumpyHandler

from jaxllm.arrays.chunks import chunk_shape
from jaxllm.arrays.store import told
from jaxllm.progress import byte_progress

_WRITE_BYTES = 1 << 26  # at a time; never less than a row of chunks
# Nodes of the index are written anew at each turn, hence their size; the rest is as Orbax has it.
_OCDBT = {"max_inline_value_bytes": 1024, "max_decoded_node_bytes": 1 << 18, "manifest_kind": "single"}


class Rows(Protocol):
    """What is read a range along its first axis at a time, such as a NumPy array."""

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """These rows."""
        ...


@dataclass(frozen=True)
class Array:
    """A tensor to be saved: what it is like is known before it is read. `axes` are the logical names of its axes."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    axes: tuple[str, ...]
    read: Callable[[], Rows]

    @property
    def nbytes(self) -> int:
        """The size of the data."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_arrays(path: Path, arrays: Sequence[Array], description: str = "converting") -> dict[str, str]:
    """Writes a checkpoint of nested names (at the dots) with a bar for progress; a checksum for each name.

    Raises:
        OSError: it cannot be written.
    """
    total = sum(array.nbytes for array in arrays)
    require_room(path.parent, total)
    here = jax.process_index()  # whatever other processes there are: they have no part in this
    alone = orbax.checkpoint.options.MultiprocessingOptions(here, {here}, f"alone{here}")
    with byte_progress(description, total) as advance, told("", OSError):
        writer = _Writer(advance)
        types = orbax.checkpoint.type_handlers.create_type_handler_registry(
            (Array, writer), (jax.Array, ArrayHandler())
        )
        handler = orbax.checkpoint.PyTreeCheckpointHandler(
            use_zarr3=True, type_handler_registry=types, multiprocessing_options=alone
        )
        with orbax.checkpoint.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
            checkpointer.save(path.absolute() / "state", _nested({array.name: array for array in arrays}))
    return writer.checksums


def require_room(directory: Path, nbytes: int) -> None:
    """Raises OSError where a file system has less room than that."""
    if nbytes > (free := shutil.disk_usage(directory).free):
        raise OSError(f"{nbytes / 1e6:,.0f} MB are needed, but only {free / 1e6:,.0f} MB are free")


class _Writer(NumpyHandler):
    """Writes what Orbax would write for NumPy arrays, but in chunks of our shapes and never a whole array.

    Uncompressed: weights shrink by 8 % (float32) to 22 % (bfloat16) and take twice as long to write and to read.
    """

    def __init__(self, advance: Callable[[int], None]):
        super().__init__()
        self.checksums: dict[str, str] = {}
        self._advance = advance

    async def serialize(self, values: Sequence[Any], infos: Sequence[Any], args: Any = None) -> list[Any]:
        """Writes arrays where Orbax says, and leaves nothing to be done later."""
        stores = await asyncio.gather(*map(_create, values, infos))
        on_their_way: list[tensorstore.WriteFutures] = []
        nbytes = 0
        for array, store in zip(values, stores, strict=True):
            checksum = 0
            for part, block in _blocks(array):
                on_their_way.append(store[part].write(block, can_reference_source_data_indefinitely=True))
                checksum = zlib.crc32(block.view(np.uint8).data, checksum)
                nbytes += block.nbytes
                if nbytes >= _WRITE_BYTES:
                    await asyncio.gather(*on_their_way)
                    self._advance(nbytes)
                    on_their_way, nbytes = [], 0
            self.checksums[array.name] = f"crc32:{checksum:08x}"
        await asyncio.gather(*on_their_way)
        self._advance(nbytes)
        return []


async def _create(array: Array, info: Any) -> tensorstore.TensorStore:
    """The store of an array, without data yet, in a place that Orbax merges with others of its kind."""
    # What is written is synced as a whole, later.
    base = {"driver": "file", "path": f"{info.parent_dir}/ocdbt.process_0/", "file_io_sync": False}
    spec = {"driver": "ocdbt", "base": base, "path": f"{info.name}/", "config": _OCDBT, "assume_config": True}
    chunk = chunk_shape(array.shape, array.axes, array.dtype.itemsize)
    return await tensorstore.open(
        {"driver": "zarr3", "kvstore": spec, "store_data_equal_to_fill_value": True},
        shape=array.shape,
        dtype=array.dtype,
        chunk_layout=tensorstore.ChunkLayout(chunk_shape=chunk),
        create=True,
        context=info.ts_context,
    )


def _blocks(array: Array) -> Iterator[tuple[slice, np.ndarray]]:
    """The data in whole rows of chunks, of a size to be written at a time."""
    source, height = array.read(), chunk_shape(array.shape, array.axes, array.dtype.itemsize)[0]
    step = height * max(1, _WRITE_BYTES * array.shape[0] // (array.nbytes * height))
    for start in range(0, array.shape[0], step):
        part = slice(start, min(start + step, array.shape[0]))
        yield part, np.ascontiguousarray(source[part])


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, last = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree
