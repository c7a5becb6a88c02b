"""The rules that map each logical axis of a weight or activation to mesh axes: one table for the whole library."""

import math
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxllm.errors import InputError
from jaxllm.sharding.mesh import MESH_AXES, current_mesh, splittable_axes

# Logical axis -> mesh axes, in order of precedence. A mesh axis that an earlier row has taken is not used again.
# "stage" is the axis along which the layers of pipeline stages are stacked. "table" is the width of the embedding
# table. "rows" is the batch where it meets the vocabulary, which `fsdp` splits as well.
RULES = (
    ("batch", ("data", "fsdp")),
    ("rows", ("data",)),
    ("stage", ("stage",)),
    ("experts", ("expert",)),
    ("heads", ("expert", "tensor")),
    ("kv_heads", ("expert", "tensor")),
    ("hidden", ("expert", "tensor")),
    ("vocab", ("expert", "tensor", "stage", "fsdp")),
    ("table", ("expert", "tensor", "stage", "fsdp")),
    ("embed", ("fsdp",)),
    ("latent", ("fsdp",)),
)
# If the size of one of these axes is not divisible by all of its mesh axes, it is split over the longest prefix of
# them that divides it. For every other logical axis that is an error.
_PARTIAL_SPLIT_ALLOWED = {"batch", "rows", "vocab", "table", "latent"}
_COMPUTE_AXES = tuple(axis for axis in MESH_AXES if axis != "fsdp")  # split a weight while it is being used

SpecEntry = str | tuple[str, ...] | None


def partition(name: str, axes: tuple[str, ...], shape: tuple[int, ...], mesh: Any) -> PartitionSpec:
    """Returns the partition of an array with the given logical axes.

    Key-value heads that are fewer than the devices are replicated.

    Args:
      name: name of the array, for the error message.
      axes: the logical axis of each dimension.
      shape: the array's shape.
      mesh: a mesh, or anything with a `shape` that maps mesh axes to sizes.

    Raises:
      InputError: an axis that must be split is not divisible.
    """
    available = splittable_axes(mesh)
    mesh_axes: dict[str, tuple[str, ...]] = {}
    is_vector = len(set(axes) - {"stage"}) == 1
    for logical, candidates in RULES:
        if logical not in axes:
            continue
        if is_vector and candidates == ("fsdp",):  # gathering a vector costs more than it saves
            continue
        size = shape[axes.index(logical)]
        requested = tuple(axis for axis in candidates if axis in available)
        chosen = _divisible_prefix(size, requested, available)
        if chosen != requested and not _may_be_partial(logical, size, requested, available):
            over = " x ".join(f"{axis}={available[axis]}" for axis in requested)
            raise InputError(f"mesh: {name}: {size} {logical} cannot be split over {over}")
        mesh_axes[logical] = chosen
        available = {axis: count for axis, count in available.items() if axis not in chosen}
    return PartitionSpec(*(_spec_entry(mesh_axes.get(axis, ())) for axis in axes))


def named_sharding(name: str, axes: tuple[str, ...], shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """Returns the `partition` of an array as a sharding on a concrete mesh."""
    return NamedSharding(mesh, partition(name, axes, shape, mesh))


def constrain(x: jax.Array, *axes: str) -> jax.Array:
    """Constrains the sharding of an activation by its logical axes. Does nothing outside `jax.set_mesh`."""
    mesh = current_mesh()
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, partition("activation", axes, x.shape, mesh))


def replicate(tree: Any) -> Any:
    """Constrains every array of a tree to be whole on every device, so that each process can read it."""
    return jax.tree.map(lambda x: constrain(x, *("host",) * x.ndim), tree)


def shard_count(axis: str, size: int, mesh: Any) -> int:
    """Returns the number of shards that a logical axis of the given size is split into."""
    entry = partition("activation", (axis,), (size,), mesh)[0]
    return math.prod(mesh.shape[name] for name in mesh_axes_of(entry))


def gathered_spec(shape: tuple[int, ...], axes: tuple[str, ...]) -> PartitionSpec | None:
    """Returns the partition in which a weight is used, or None if that is how it is stored.

    Weights are gathered over `fsdp` before use. A vocabulary axis is not: each device looks up its own tokens and
    computes their logits.
    """
    mesh = current_mesh()
    if mesh is None:
        return None
    stored = partition("weight", axes, shape, mesh)
    used = PartitionSpec(*(_entry_in_use(axis, entry) for axis, entry in zip(axes, stored, strict=True)))
    if used == stored:
        return None
    return used


def gather(weight: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """Gathers a weight with the given logical axes over `fsdp`; returns it unchanged if `fsdp` does not split it."""
    spec = gathered_spec(weight.shape, axes)
    if spec is None:
        return weight
    return jax.lax.with_sharding_constraint(weight, spec)


def restrict_entry(entry: SpecEntry, axes: tuple[str, ...]) -> SpecEntry:
    """Returns an entry of a `PartitionSpec` with only those of its mesh axes that are in `axes`."""
    return _spec_entry(tuple(axis for axis in mesh_axes_of(entry) if axis in axes))


def mesh_axes_of(entry: SpecEntry) -> tuple[str, ...]:
    """Returns the mesh axes that an entry of a `PartitionSpec` names."""
    if isinstance(entry, str):
        return (entry,)
    return entry or ()


def _divisible_prefix(size: int, axes: tuple[str, ...], sizes: dict[str, int]) -> tuple[str, ...]:
    """Returns the longest prefix of mesh axes whose product divides a size."""
    for count in range(len(axes), 0, -1):
        if size % _product(axes[:count], sizes) == 0:
            return axes[:count]
    return ()


def _may_be_partial(logical: str, size: int, requested: tuple[str, ...], sizes: dict[str, int]) -> bool:
    if logical == "kv_heads":  # whole on every device, where every device has a copy of one head
        return _product(requested, sizes) % size == 0
    return logical in _PARTIAL_SPLIT_ALLOWED


def _product(axes: tuple[str, ...], sizes: dict[str, int]) -> int:
    return math.prod(sizes[axis] for axis in axes)


def _spec_entry(axes: tuple[str, ...]) -> SpecEntry:
    if len(axes) > 1:
        return axes
    return next(iter(axes), None)


def _entry_in_use(axis: str, entry: SpecEntry) -> SpecEntry:
    if axis == "vocab":
        return entry
    return restrict_entry(entry, _COMPUTE_AXES)
