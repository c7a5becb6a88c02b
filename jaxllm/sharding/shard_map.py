"""Helpers that run a function on each device's shard of its arguments, over `jax.shard_map`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import PartitionSpec

from jaxllm.sharding.mesh import current_mesh, manual_axes
from jaxllm.sharding.rules import partition, restrict_entry, shard_count

_REDUCED_AXES = ("expert", "tensor")


def kv_head_replicas(kv_heads: int, heads: int, mesh: Any = None) -> int:
    """Returns how often each key-value head is repeated so that every device has one; 1 if they can be split.

    A single key-value head is not repeated: it is whole on every device anyway.
    """
    if mesh is None:
        mesh = current_mesh()
    if mesh is None or kv_heads == 1:
        return 1
    return max(shard_count("heads", heads, mesh) // kv_heads, 1)


def shard_map_by_axes(f: Callable[[Any], Any], arrays: Any, axes: Any, out_axes: Any) -> Any:
    """Computes `f(arrays)` on each device's shard of the arrays, without communication.

    `f` must treat rows and heads independently, so that a shard of its result depends on the same shard of its
    arguments only. Outside a mesh this is `f(arrays)`.

    Args:
      f: the function to run.
      arrays: a pytree of arrays, None where there is none.
      axes: the same tree, with a tuple of logical axes for each array.
      out_axes: logical axes of each array of the result.
    """
    mesh = current_mesh()
    if mesh is None:
        return f(arrays)
    leaves, tree = jax.tree.flatten(arrays)
    leaf_axes = tree.flatten_up_to(axes)
    sizes: dict[str, int] = {}
    for array, names in zip(leaves, leaf_axes, strict=True):
        sizes |= dict(zip(names, array.shape, strict=True))

    def spec(names: tuple[str, ...]) -> PartitionSpec:
        return partition("activation", names, tuple(sizes[name] for name in names), mesh)

    in_specs = tree.unflatten([spec(names) for names in leaf_axes])
    out_specs = jax.tree.map(spec, out_axes, is_leaf=_is_axes)
    program = jax.shard_map(
        f, in_specs=(in_specs,), out_specs=out_specs, axis_names=_automatic_axes(mesh), check_vma=False
    )
    return program(arrays)


class ShardIndex(NamedTuple):
    """Index of a device's shard along the mesh axes `expert` and `tensor`."""

    expert: Any = 0
    tensor: Any = 0


def psum_over_shards(f: Callable[..., jax.Array], modules: Any, x: jax.Array, *args: jax.Array | None) -> jax.Array:
    """Computes `f(shard, modules, x, *args)`, a sum over experts and hidden units, one shard on each device.

    On a mesh each device computes its own rows with its shard of the weights, and one `psum` adds the results up.
    Written for functions with loops in which the compiler would otherwise communicate at every iteration.

    Args:
      f: takes the `ShardIndex`, the modules with their shard of the weights, and the rows; returns [B T D].
      modules: a pytree of modules whose parameters carry logical axes.
      x: [B T D].
      *args: further arrays [B T ...], or None.
    """
    mesh = current_mesh()
    if mesh is None:
        return f(ShardIndex(), modules, x, *args)

    def weight_spec(parameter: Any) -> PartitionSpec:
        stored = partition("weight", parameter.axes, parameter.shape, mesh)
        return PartitionSpec(*(restrict_entry(entry, _REDUCED_AXES) for entry in stored))

    def row_spec(x: jax.Array) -> PartitionSpec:
        return partition("activation", ("batch", "time", "features"), x.shape, mesh)

    def run(*args: Any) -> jax.Array:
        shard = ShardIndex(*(jax.lax.axis_index(axis) for axis in _REDUCED_AXES))
        return jax.lax.psum(f(shard, *args), _REDUCED_AXES)

    weight_specs = jax.tree.map(weight_spec, modules, is_leaf=lambda node: hasattr(node, "axes"))
    in_specs = (weight_specs, *jax.tree.map(row_spec, (x, *args)))
    program = jax.shard_map(
        run, in_specs=in_specs, out_specs=row_spec(x), axis_names=_automatic_axes(mesh), check_vma=False
    )
    return program(modules, x, *args)


def _automatic_axes(mesh: Any) -> set[str]:
    return set(mesh.axis_names) - set(manual_axes(mesh))


def _is_axes(node: Any) -> bool:
    return isinstance(node, tuple) and isinstance(node[0], str)
