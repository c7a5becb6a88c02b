"""Device meshes: creating them, checking their axis sizes, and finding the current one."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding

from jaxllm.checks import whole_number
from jaxllm.errors import InputError

MESH_AXES = ("data", "fsdp", "stage", "expert", "tensor")


def make_mesh(
    data: int = 1,
    fsdp: int = 1,
    stage: int = 1,
    tensor: int = -1,
    expert: int = 1,
    devices: Sequence[Any] | None = None,
) -> Mesh:
    """Creates a mesh with the given axis sizes over the first devices.

    Args:
      data: splits the batch.
      fsdp: splits the batch and the weights; each layer's weights are gathered one layer before they are used.
      stage: splits the layers into the stages of a pipeline.
      tensor: splits heads, hidden units and the vocabulary.
      expert: splits the experts of a mixture. Every other array is split as by `tensor`.
      devices: the devices to use, `jax.devices()` by default.

    At most one size may be -1, which stands for all remaining devices.

    Raises:
      InputError: the sizes need more devices than there are, they do not divide the number of devices, or one of
        several processes would have no device in the mesh.
    """
    devices = jax.devices() if devices is None else list(devices)
    requested = {"data": data, "fsdp": fsdp, "stage": stage, "expert": expert, "tensor": tensor}
    sizes = axis_sizes(requested, len(devices), devices[0].platform)
    shape = tuple(sizes.values())
    used = devices[: math.prod(shape)]
    processes = {device.process_index for device in devices}
    if {device.process_index for device in used} != processes:
        raise InputError(
            f"mesh: {len(used)} devices leave some processes without a device; use all {len(processes)} processes"
        )
    return jax.make_mesh(shape, MESH_AXES, axis_types=(AxisType.Auto,) * len(shape), devices=used)


def axis_sizes(requested: Mapping[str, int], devices: int, platform: str = "planned") -> dict[str, int]:
    """Returns the size of every mesh axis, given the requested ones.

    An axis that is not requested has size 1. One axis may have size -1, which stands for all remaining devices.

    Raises:
      InputError: the sizes need more devices than there are, or do not divide their number.
    """
    sizes = {axis: requested.get(axis, 1) for axis in MESH_AXES}
    for axis, size in sizes.items():
        if whole_number(f"mesh: {axis}", size, min_value=-1) == 0:
            raise InputError(f"mesh: {axis}=0: must be a positive number, or -1 for all remaining devices")
    inferred = [axis for axis, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    description = ", ".join(f"{axis}={size}" for axis, size in sizes.items() if size != 1)
    if len(inferred) > 1 or (inferred and devices % fixed):
        raise InputError(f"mesh: {description} does not divide {devices} devices")
    if inferred:
        sizes[inferred[0]] = devices // fixed
    count = math.prod(sizes.values())
    if count > devices:
        raise InputError(f"mesh: {description} needs {count} devices, but there are {devices} ({platform})")
    return sizes


def manual_axes(mesh: Any) -> tuple[str, ...]:
    """Returns the mesh axes that an enclosing `jax.shard_map` handles manually."""
    return getattr(mesh, "manual_axes", ())


def splittable_axes(mesh: Any) -> dict[str, int]:
    """Returns the mesh axes larger than 1 that no enclosing `jax.shard_map` handles, with their sizes."""
    manual = manual_axes(mesh)
    return {axis: size for axis, size in mesh.shape.items() if size > 1 and axis not in manual}


def current_mesh() -> Any:
    """Returns the abstract mesh of `jax.set_mesh` or an enclosing `jax.shard_map`; None if nothing can be split."""
    mesh = jax.sharding.get_abstract_mesh()
    if not splittable_axes(mesh):
        return None
    return mesh


def mesh_of(tree: Any) -> Mesh | None:
    """Returns the mesh that the arrays of a tree are on, or None if they are on a single device."""
    for leaf in jax.tree.leaves(tree):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh) and sharding.mesh.size > 1:
            return sharding.mesh
    return None
