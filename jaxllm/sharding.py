"""Which mesh axis each logical axis of a weight or an activation lies on: one table for the whole library."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxllm.checks import whole_number
from jaxllm.errors import InputError

MESH_AXES = ("data", "fsdp", "stage", "tensor")

# Logical axis -> mesh axis, in order of precedence: a mesh axis that a row above has taken is not given twice.
# `table` is the width of an embedding table, split only where its vocabulary does not divide.
RULES = (
    ("batch", "data"),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("hidden", "tensor"),
    ("vocab", "tensor"),
    ("table", "tensor"),
    ("embed", "fsdp"),
)
# These may stay whole when they do not divide; for every other axis that is an error.
_WHOLE_IF_UNEVEN = {"vocab", "table", "batch"}


def make_mesh(
    data: int = 1, fsdp: int = 1, stage: int = 1, tensor: int = -1, devices: Sequence[Any] | None = None
) -> Mesh:
    """A mesh of the given extents over the first devices; -1 stands for all devices that are left.

    Raises:
        InputError: more devices asked for than there are, extents that do not divide them, a process of several left
            without a device of the mesh, or a pipeline.
    """
    devices = jax.devices() if devices is None else list(devices)
    extents: dict[str, int] = dict(zip(MESH_AXES, (data, fsdp, stage, tensor), strict=True))
    for axis, extent in extents.items():
        if whole_number(f"mesh: {axis}", extent, least=-1) == 0:
            raise InputError(f"mesh: {axis}=0: must be a positive number, or -1 for all devices left")
    if stage != 1:
        raise InputError(f"mesh: stage={stage}: pipelines are not supported yet; use tensor")
    free = [axis for axis, extent in extents.items() if extent == -1]
    fixed = math.prod(extent for extent in extents.values() if extent != -1)
    if len(free) > 1 or (free and len(devices) % fixed):
        raise InputError(f"mesh: {extents} does not divide {len(devices)} devices")
    if free:
        extents[free[0]] = len(devices) // fixed
    count = math.prod(extents.values())
    if count > len(devices):
        raise InputError(f"mesh: {extents} needs {count} devices, but there are {len(devices)} ({devices[0].platform})")
    hosts, reached = ({device.process_index for device in some} for some in (devices, devices[:count]))
    if reached != hosts:
        raise InputError(f"mesh: {extents} leaves processes of this job without a part: it must reach all {len(hosts)}")
    shape = tuple(extents.values())
    return jax.make_mesh(shape, MESH_AXES, axis_types=(AxisType.Auto,) * len(shape), devices=devices[:count])


def partition(name: str, axes: tuple[str, ...], shape: tuple[int, ...], mesh: Any) -> PartitionSpec:
    """The partition of an array with the given logical axes; key-value heads fewer than devices are replicated.

    Raises:
        InputError: an axis that must be split does not divide; the message says which, of which array.
    """
    placed: dict[str, str] = {}
    for logical, physical in RULES:
        extent = mesh.shape.get(physical, 1)
        if extent == 1 or logical not in axes or physical in placed.values():
            continue
        size = shape[axes.index(logical)]
        if size % extent == 0:
            placed[logical] = physical
        elif logical not in _WHOLE_IF_UNEVEN and not (logical == "kv_heads" and extent % size == 0):
            raise InputError(f"mesh: {name}: {size} {logical} cannot be split over {physical}={extent}")
    return PartitionSpec(*(placed.get(axis) for axis in axes))


def named_sharding(name: str, axes: tuple[str, ...], shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """`partition` on a concrete mesh."""
    return NamedSharding(mesh, partition(name, axes, shape, mesh))


def constrain(x: jax.Array, *axes: str) -> jax.Array:
    """Keeps an activation on the mesh axes of its logical axes; does nothing outside `jax.set_mesh`."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or mesh.manual_axes:
        return x
    return jax.lax.with_sharding_constraint(x, partition("activation", axes, x.shape, mesh))


def replicate(tree: Any) -> Any:
    """Arrays that every device is to hold whole, and so every process can read; as `constrain`, else nothing."""
    return jax.tree.map(lambda x: constrain(x, *("host",) * x.ndim), tree)


def add_up(f: Callable[..., jax.Array], modules: Any, x: jax.Array, *more: jax.Array | None) -> jax.Array:
    """`f(modules, x, *more)` of inputs [B T ...], [B T D], for an f that is a sum over hidden units.

    On a mesh each device does its own rows with its share of the weights, and all are added up once: for programs whose
    loops the compiler would have devices meet in at every turn.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return f(modules, x, *more)

    def share(parameter: Any) -> PartitionSpec:
        spec = partition("weight", parameter.axes, parameter.shape, mesh)
        return PartitionSpec(*(axis if axis == "tensor" else None for axis in spec))

    def rows(x: jax.Array) -> PartitionSpec:
        return partition("activation", ("batch", "time", "features"), x.shape, mesh)

    shares = jax.tree.map(share, modules, is_leaf=lambda node: hasattr(node, "axes"))
    specs = (shares, *jax.tree.map(rows, (x, *more)))
    run = jax.shard_map(
        lambda *args: jax.lax.psum(f(*args), "tensor"), in_specs=specs, out_specs=rows(x), check_vma=False
    )
    return run(modules, x, *more)


def mesh_of(tree: Any) -> Mesh | None:
    """The mesh that the arrays of a tree live on, if it is one of several devices."""
    for leaf in jax.tree.leaves(tree):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh) and sharding.mesh.size > 1:
            return sharding.mesh
    return None
