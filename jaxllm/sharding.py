"""Which mesh axes each logical axis of a weight or an activation lies on: one table for the whole library."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxllm.checks import whole_number
from jaxllm.errors import InputError

MESH_AXES = ("data", "fsdp", "stage", "expert", "tensor")

# Logical axis -> mesh axes, in order of precedence: a mesh axis that a row above has taken is not given twice.
# `stage` stacks layers of a pipeline's stages; `table` is the width of a table of the vocabulary's vectors, and `rows`
# is the batch where the vocabulary is met, which `fsdp` splits too.
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
# What does not divide by all of its mesh axes is split over the first of them that it divides by; for every other
# logical axis that is an error.
_AS_FAR_AS_EVEN = {"batch", "rows", "vocab", "table", "latent"}
_USED = tuple(axis for axis in MESH_AXES if axis != "fsdp")  # what still splits a weight in use


def make_mesh(
    data: int = 1,
    fsdp: int = 1,
    stage: int = 1,
    tensor: int = -1,
    expert: int = 1,
    devices: Sequence[Any] | None = None,
) -> Mesh:
    """A mesh of the given extents over the first devices; -1 stands for all devices that are left.

    `data` splits the batch; `fsdp` the batch, and weights that are gathered a layer ahead of use; `stage` the layers,
    as a pipeline; `tensor` heads, hidden units and the vocabulary; `expert` whole experts of mixtures, and of all
    else what `tensor` splits.

    Raises:
        InputError: more devices asked for than there are, extents that do not divide them, or a process of several left
            without a device of the mesh.
    """
    devices = jax.devices() if devices is None else list(devices)
    asked = {"data": data, "fsdp": fsdp, "stage": stage, "expert": expert, "tensor": tensor}
    extents = mesh_extents(asked, len(devices), devices[0].platform)
    shape = tuple(extents.values())
    count = math.prod(shape)
    hosts, reached = ({device.process_index for device in some} for some in (devices, devices[:count]))
    if reached != hosts:
        raise InputError(
            f"mesh: {count} devices leaves processes of this job without a part: it must reach all {len(hosts)}"
        )
    return jax.make_mesh(shape, MESH_AXES, axis_types=(AxisType.Auto,) * len(shape), devices=devices[:count])


def mesh_extents(asked: Mapping[str, int], devices: int, platform: str = "planned") -> dict[str, int]:
    """The extents of all axes, of which those not asked for are 1, and one may be -1 for all devices that are left.

    Raises:
        InputError: more devices asked for than there are, or extents that do not divide them.
    """
    extents = {axis: asked.get(axis, 1) for axis in MESH_AXES}
    for axis, extent in extents.items():
        if whole_number(f"mesh: {axis}", extent, least=-1) == 0:
            raise InputError(f"mesh: {axis}=0: must be a positive number, or -1 for all devices left")
    free = [axis for axis, extent in extents.items() if extent == -1]
    fixed = math.prod(extent for extent in extents.values() if extent != -1)
    said = ", ".join(f"{axis}={extent}" for axis, extent in extents.items() if extent != 1)
    if len(free) > 1 or (free and devices % fixed):
        raise InputError(f"mesh: {said} does not divide {devices} devices")
    extents |= dict.fromkeys(free, devices // fixed)
    if (count := math.prod(extents.values())) > devices:
        raise InputError(f"mesh: {said} needs {count} devices, but there are {devices} ({platform})")
    return extents


def partition(name: str, axes: tuple[str, ...], shape: tuple[int, ...], mesh: Any) -> PartitionSpec:
    """The partition of an array with the given logical axes; key-value heads fewer than devices are replicated.

    Raises:
        InputError: an axis that must be split does not divide; the message says which, of which array.
    """
    free, placed = _free(mesh), dict[str, tuple[str, ...]]()
    vector = len(set(axes) - {"stage"}) == 1
    for logical, physical in RULES:
        if logical not in axes or (vector and physical == ("fsdp",)):  # a vector is not worth gathering
            continue
        size, wanted = shape[axes.index(logical)], tuple(axis for axis in physical if axis in free)
        even = _even(size, wanted, free)
        whole = logical in _AS_FAR_AS_EVEN or (logical == "kv_heads" and _product(wanted, free) % size == 0)
        if even != wanted and not whole:
            over = " x ".join(f"{axis}={free[axis]}" for axis in wanted)
            raise InputError(f"mesh: {name}: {size} {logical} cannot be split over {over}")
        placed[logical] = even
        free = {axis: extent for axis, extent in free.items() if axis not in even}
    return PartitionSpec(*(_entry(placed.get(axis, ())) for axis in axes))


def _even(size: int, axes: tuple[str, ...], extents: dict[str, int]) -> tuple[str, ...]:
    """As many of the first axes as divide a size evenly."""
    return next(axes[:n] for n in range(len(axes), -1, -1) if size % _product(axes[:n], extents) == 0)


def _product(axes: tuple[str, ...], extents: dict[str, int]) -> int:
    return math.prod(extents[axis] for axis in axes)


def _entry(axes: tuple[str, ...]) -> str | tuple[str, ...] | None:
    return axes if len(axes) > 1 else next(iter(axes), None)


def _free(mesh: Any) -> dict[str, int]:
    """The axes of a mesh that there is something to split over, less those that a `jax.shard_map` around has taken."""
    return {axis: extent for axis, extent in mesh.shape.items() if extent > 1 and axis not in manual_axes(mesh)}


def manual_axes(mesh: Any) -> tuple[str, ...]:
    """The axes of a mesh that a `jax.shard_map` around has taken."""
    return getattr(mesh, "manual_axes", ())


def named_sharding(name: str, axes: tuple[str, ...], shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """`partition` on a concrete mesh."""
    return NamedSharding(mesh, partition(name, axes, shape, mesh))


def current_mesh() -> Any:
    """The abstract mesh of `jax.set_mesh` or of a `jax.shard_map` around; None if it has nothing to split over."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh if _free(mesh) else None


def constrain(x: jax.Array, *axes: str) -> jax.Array:
    """Keeps an activation on the mesh axes of its logical axes; does nothing outside `jax.set_mesh`."""
    mesh = current_mesh()
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, partition("activation", axes, x.shape, mesh))


def replicate(tree: Any) -> Any:
    """Arrays that every device is to hold whole, and so every process can read; as `constrain`, else nothing."""
    return jax.tree.map(lambda x: constrain(x, *("host",) * x.ndim), tree)


def extent(axis: str, size: int, mesh: Any) -> int:
    """How many parts a logical axis of that size is cut into."""
    return math.prod(mesh.shape[name] for name in axes_of(partition("activation", (axis,), (size,), mesh)[0]))


def gathered(shape: tuple[int, ...], axes: tuple[str, ...]) -> PartitionSpec | None:
    """The partition that a weight with these logical axes is used in, if devices gather it over `fsdp` for that.

    A vocabulary is not gathered: each device looks up, or has the logits of, its own tokens.
    """
    mesh = current_mesh()
    if mesh is None:
        return None
    placed = partition("weight", axes, shape, mesh)
    used = PartitionSpec(
        *(at if axis == "vocab" else entry_within(at, _USED) for axis, at in zip(axes, placed, strict=True))
    )
    return None if used == placed else used


def gather(weight: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """A weight with these logical axes, gathered over `fsdp` where it is split."""
    used = gathered(weight.shape, axes)
    return weight if used is None else jax.lax.with_sharding_constraint(weight, used)


def entry_within(entry: str | tuple[str, ...] | None, axes: tuple[str, ...]) -> str | tuple[str, ...] | None:
    """What an entry of a `PartitionSpec` names of some mesh axes."""
    return _entry(tuple(axis for axis in axes_of(entry) if axis in axes))


def axes_of(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The mesh axes that an entry of a `PartitionSpec` names."""
    return (entry,) if isinstance(entry, str) else entry or ()


def mesh_of(tree: Any) -> Mesh | None:
    """The mesh that the arrays of a tree live on, if it is one of several devices."""
    for leaf in jax.tree.leaves(tree):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh) and sharding.mesh.size > 1:
            return sharding.mesh
    return None
