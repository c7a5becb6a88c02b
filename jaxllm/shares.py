"""Work that every device of a mesh does on its own share of rows, heads, experts or hidden units."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import PartitionSpec

from jaxllm.sharding import current_mesh, entry_within, extent, manual_axes, partition

_SUMMED = ("expert", "tensor")


def copies(kv_heads: int, heads: int, mesh: Any = None) -> int:
    """How often each of some key-value heads is there, for every device to have its own: 1 where they can be split.

    A single one is not counted: it is whole on every device, which is the same.
    """
    mesh = current_mesh() if mesh is None else mesh
    if mesh is None or kv_heads == 1:
        return 1
    return max(extent("heads", heads, mesh) // kv_heads, 1)


def on_shares(f: Callable[[Any], Any], arrays: Any, axes: Any, out_axes: Any) -> Any:
    """`f(arrays)` on each device's share of arrays with these logical axes, for an f of rows and heads one by one.

    Nothing is exchanged: a share of the result, of which the axes are given too, follows from the same share of the
    arguments. What has no value is None, in arrays and axes. Outside of a mesh it is `f(arrays)`.
    """
    mesh = current_mesh()
    if mesh is None:
        return f(arrays)
    sizes: dict[str, int] = {}
    leaves, tree = jax.tree.flatten(arrays)
    named = tree.flatten_up_to(axes)
    for array, its in zip(leaves, named, strict=True):
        sizes |= dict(zip(its, array.shape, strict=True))

    def place(its: tuple[str, ...]) -> PartitionSpec:
        return partition("activation", its, tuple(sizes[axis] for axis in its), mesh)

    in_specs = tree.unflatten([place(its) for its in named])
    out_specs = jax.tree.map(place, out_axes, is_leaf=lambda node: isinstance(node, tuple) and isinstance(node[0], str))
    free = set(mesh.axis_names) - set(manual_axes(mesh))
    return jax.shard_map(f, in_specs=(in_specs,), out_specs=out_specs, axis_names=free, check_vma=False)(arrays)


class Share(NamedTuple):
    """Which part of a sum a device has: its index along `expert` and along `tensor`."""

    expert: Any = 0
    tensor: Any = 0


def add_up(f: Callable[..., jax.Array], modules: Any, x: jax.Array, *more: jax.Array | None) -> jax.Array:
    """`f(share, modules, x, *more)` of inputs [B T ...], [B T D], for an f that is a sum over experts and hidden units.

    On a mesh each device does its own rows with its share of the weights, and all are added up once: for programs whose
    loops the compiler would have devices meet in at every turn.
    """
    mesh = current_mesh()
    if mesh is None:
        return f(Share(), modules, x, *more)

    def weights(parameter: Any) -> PartitionSpec:
        placed = partition("weight", parameter.axes, parameter.shape, mesh)
        return PartitionSpec(*(entry_within(at, _SUMMED) for at in placed))

    def rows(x: jax.Array) -> PartitionSpec:
        return partition("activation", ("batch", "time", "features"), x.shape, mesh)

    def run(*args: Any) -> jax.Array:
        share = Share(*(jax.lax.axis_index(axis) for axis in _SUMMED))
        return jax.lax.psum(f(share, *args), _SUMMED)

    shares = jax.tree.map(weights, modules, is_leaf=lambda node: hasattr(node, "axes"))
    specs = (shares, *jax.tree.map(rows, (x, *more)))
    axes = set(mesh.axis_names) - set(manual_axes(mesh))
    return jax.shard_map(run, in_specs=specs, out_specs=rows(x), axis_names=axes, check_vma=False)(modules, x, *more)
