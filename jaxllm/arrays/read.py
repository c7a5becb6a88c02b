"""Reads stored arrays directly into the shards of parameters; each process reads what its own devices hold."""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding

from jaxllm.arrays.store import Store, errors_as
from jaxllm.arrays.values import cast
from jaxllm.errors import InputError
from jaxllm.progress import byte_progress

_BLOCK_BYTES = 1 << 25  # that one thread reads at a time, and at least one row of chunks
_AHEAD_BYTES = 1 << 28  # of shards that are read ahead
_THREADS = 4
_ALIGNMENT = 64  # bytes; a CPU device uses an aligned array without a copy

Box = tuple[range, ...]  # part of an array; unlike slices, ranges are hashable


@dataclass(frozen=True)
class RestoreSpec:
    """How to restore a parameter: its shape, dtype and sharding.

    It is the stored array of its own name or, if there are `stage_names`, the stored arrays of these names, stacked
    along a new first axis. None stands for zeros.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    sharding: Sharding
    stage_names: tuple[str | None, ...] | None = None


@dataclass(frozen=True)
class _Shard:
    """What some of the devices hold of a parameter; complete when all reads are done."""

    name: str
    devices: list[Any]
    data: np.ndarray
    reads: list[Future[None]]


def stored_arrays(path: Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shape and stored dtype of every array; reads nothing else.

    Raises:
      InputError: the store is damaged.
    """
    store = Store(path)
    opened = {name: store.open(name) for name in store.names()}
    return {name: jax.ShapeDtypeStruct(array.shape, array.dtype.numpy_dtype) for name, array in opened.items()}


def read_array(path: Path, name: str) -> np.ndarray:
    """Returns one array as it is stored.

    Raises:
      InputError: it is missing or damaged.
    """
    array = Store(path).open(name)
    with errors_as(f"{path.parent}: cannot be restored: tensor {name}"):
        return array.read().result()


def read_blocks(path: Path, name: str) -> Iterator[np.ndarray]:
    """Yields the blocks of an array in order, while the next one is being read.

    Raises:
      InputError: the array is missing, or too damaged to be read.
    """
    array = Store(path).open(name)
    blocks = _blocks(tuple(map(range, array.shape)), array)
    with errors_as(f"{path.parent}: cannot be restored: tensor {name}"):
        reads = (array[_slices(block)].read() for block in blocks)
        coming = next(reads)
        for following in reads:
            yield coming.result()
            coming = following
        yield coming.result()


def read_arrays(path: Path, specs: Mapping[str, RestoreSpec], description: str = "loading") -> dict[str, jax.Array]:
    """Reads parameters by name, each directly into its shards, with a progress bar.

    A shard that several devices hold is read once. Besides the result, a bounded number of bytes is in memory at a
    time.

    Raises:
      InputError: an array is missing, has another shape, is damaged, or has values that the dtype cannot hold.
    """
    store = Store(path)
    shards = dict[str, list[jax.Array]]()
    placements = {name: _placements(parameter) for name, parameter in specs.items()}
    total = sum(_nbytes(specs[name], box) for name, boxes in placements.items() for box in boxes)
    pool = ThreadPoolExecutor(_THREADS)
    try:
        with byte_progress(description, total) as advance:
            started = (
                _Shard(name, devices, *_start(pool, store, name, specs[name], box))
                for name, boxes in placements.items()
                for box, devices in boxes.items()
            )
            for shard in _prefetch(started):
                for read in shard.reads:
                    read.result()
                kind = specs[shard.name].sharding.memory_kind
                places = [SingleDeviceSharding(device, memory_kind=kind) for device in shard.devices]
                placed = [jax.device_put(shard.data, place) for place in places]
                jax.block_until_ready(placed)  # otherwise copies to the devices could accumulate
                shards.setdefault(shard.name, []).extend(placed)
                advance(shard.data.nbytes)
    finally:
        pool.shutdown(cancel_futures=True)
    return {
        name: jax.make_array_from_single_device_arrays(
            parameter.shape, parameter.sharding, shards.get(name, []), dtype=parameter.dtype
        )
        for name, parameter in specs.items()
    }


def _placements(parameter: RestoreSpec) -> dict[Box, list[Any]]:
    """Returns each part of a parameter that devices of this process hold, and these devices."""
    boxes: dict[Box, list[Any]] = {}
    for device, index in parameter.sharding.addressable_devices_indices_map(parameter.shape).items():
        box = tuple(range(*axis.indices(n)) for axis, n in zip(index or (), parameter.shape, strict=True))
        boxes.setdefault(box, []).append(device)
    return boxes


def _prefetch(shards: Iterable[_Shard]) -> Iterator[_Shard]:
    """Yields the shards in order, while the next ones are being read."""
    window: deque[_Shard] = deque()
    for shard in shards:
        window.append(shard)
        while len(window) > 1 and sum(other.data.nbytes for other in window) > _AHEAD_BYTES:
            yield window.popleft()
    yield from window


def _start(
    pool: ThreadPoolExecutor, store: Store, name: str, parameter: RestoreSpec, box: Box
) -> tuple[np.ndarray, list[Future[None]]]:
    """Returns an array for a part of a parameter, and the reads that fill it."""
    data = _aligned(tuple(map(len, box)), parameter.dtype)
    if parameter.stage_names is None:
        return data, list(_read_futures(pool, store, name, parameter.shape, box, data))
    reads: list[Future[None]] = []
    for part, out in zip(parameter.stage_names[_slices(box)[0]], data, strict=True):
        if part is None:
            out[...] = 0
        else:
            reads += _read_futures(pool, store, part, parameter.shape[1:], box[1:], out)
    return data, reads


def _read_futures(
    pool: ThreadPoolExecutor, store: Store, name: str, shape: tuple[int, ...], box: Box, out: np.ndarray
) -> Iterator[Future[None]]:
    """Starts reading a box of a stored array into `out`, one block at a time."""
    array = store.open(name)
    if array.shape != shape:
        where = f"{store.path.parent}: tensor {name}"
        raise InputError(f"{where}: shape {list(array.shape)} is stored, but the config asks for {list(shape)}")

    def read(block: Box) -> None:
        with errors_as(f"{store.path.parent}: cannot be restored: tensor {name}"):
            values = array[_slices(block)].read().result()
        out[_slices(block, box)] = cast(values, out.dtype, name)

    for block in _blocks(box, array):
        yield pool.submit(read, block)


def _blocks(box: Box, array: Any) -> Iterator[Box]:
    """Yields the blocks of a box, cut along its first axis at the boundaries of chunks."""
    if not box:
        yield box
        return
    first, *others = box
    row = array.dtype.numpy_dtype.itemsize * math.prod(map(len, others))
    height = array.chunk_layout.read_chunk.shape[0]
    step = max(1, _BLOCK_BYTES // max(1, row * height)) * height
    cuts = [first.start, *range((first.start // step + 1) * step, first.stop, step), first.stop]
    for start, stop in pairwise(cuts):
        yield (range(start, stop), *others)


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Returns a new array with the alignment that CPU devices need."""
    nbytes = math.prod(shape) * dtype.itemsize
    buffer = np.empty(nbytes + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + nbytes].view(dtype).reshape(shape)


def _nbytes(parameter: RestoreSpec, box: Box) -> int:
    return math.prod(map(len, box)) * parameter.dtype.itemsize


def _slices(box: Box, origin: Box | None = None) -> tuple[slice, ...]:
    """Returns the index of a box, in the whole array or in another box."""
    starts = [0] * len(box) if origin is None else [axis.start for axis in origin]
    return tuple(slice(axis.start - start, axis.stop - start) for axis, start in zip(box, starts, strict=True))
