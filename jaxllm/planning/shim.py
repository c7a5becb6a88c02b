"""What the mesh axes `stage` and `expert` do to shapes, until `jaxllm.sharding` and `abstract` say it themselves."""

import math
from collections import Counter
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from jax.sharding import PartitionSpec

from jaxllm import config, sharding
from jaxllm.errors import InputError

Block = config.Block | config.ParallelBlock
MESH_AXES = ("data", "fsdp", "stage", "tensor", "expert")


def partition(name: str, axes: tuple[str, ...], shape: tuple[int, ...], mesh: Any) -> PartitionSpec:
    """As `jaxllm.sharding.partition`, on all axes."""
    extents = {axis: mesh.shape.get(axis, 1) for axis in MESH_AXES}
    joined = ("tensor",) if "experts" in axes else ("expert", "tensor")
    joined = ("stage", *joined) if "vocab" in axes else joined
    today = {"data": extents["data"], "fsdp": extents["fsdp"], "tensor": math.prod(extents[axis] for axis in joined)}
    spec = sharding.partition(name, axes, shape, SimpleNamespace(shape=today))
    entries = [joined if entry == "tensor" else entry for entry in (*spec, *[None] * (len(axes) - len(spec)))]
    if "experts" in axes and (extent := extents["expert"]) > 1:
        if (size := shape[axes.index("experts")]) % extent:
            raise InputError(f"mesh: {name}: {size} experts cannot be split over expert={extent}")
        entries[axes.index("experts")] = "expert"
    return PartitionSpec(*entries)


def slots(part: config.Decoder, stages: int) -> "Counter[Block]":
    """How many layers of each kind a device has room for: as many as the stage that has the most of it.

    Raises:
        InputError: more stages than layers.
    """
    if stages > part.num_layers:
        raise InputError(f"mesh: {part.num_layers} layers cannot be placed on stage={stages}")
    per_stage = -(-part.num_layers // stages)
    kinds = [part.block(index) for index in range(part.num_layers)]
    most: Counter[Block] = Counter()
    for start in range(0, part.num_layers, per_stage):
        most |= Counter(kinds[start : start + per_stage])
    return most


def resolved(extents: Mapping[str, int], devices: int) -> dict[str, int]:
    """The extents of all axes, -1 being all devices that are left; as `make_mesh` has it, without any devices."""
    full = dict.fromkeys(MESH_AXES, 1) | dict(extents)
    fixed = math.prod(extent for extent in full.values() if extent != -1)
    free = [axis for axis, extent in full.items() if extent == -1]
    if min(full.values()) < -1 or 0 in full.values():
        raise InputError(f"mesh: {full}: extents are positive numbers, or -1 for all devices left")
    if len(free) > 1 or (free and devices % fixed):
        raise InputError(f"mesh: {full} does not divide {devices} devices")
    full |= dict.fromkeys(free, devices // fixed)
    if (count := math.prod(full.values())) > devices:
        raise InputError(f"mesh: {full} needs {count} devices, but there are {devices}")
    return full
