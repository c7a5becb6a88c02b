"""Layers one after the other, of which those that are not on the device as they are used are fetched a layer ahead."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm.cache import Entry, Span
from jaxllm.nn.parameter import Init, build, is_parameter
from jaxllm.sharding import gather, gathered

Entries = tuple[Entry | None, ...]
Apply = Callable[[int, Any, jax.Array, Any], tuple[jax.Array, Any]]


class Layers(nnx.List):
    """Layers built from `parts`, in their order."""

    def __init__(self, init: Init, parts: Sequence[Any], dim: int):
        super().__init__([build(init, part, dim) for part in parts])

    @property
    def no_entries(self) -> Entries:
        """In place of cache entries where nothing is to be kept."""
        return (None,) * len(self)

    def __call__(self, x: jax.Array, span: Span, entries: Entries) -> tuple[jax.Array, Entries]:
        """x [B T D] -> [B T D] behind the last layer, and the layers' cache entries."""
        return run(self, x, entries, lambda _, layer, x, entry: layer(x, span, entry))

    def new_entries(self, batch: int, capacity: int, dtype: jnp.dtype) -> Entries:
        """What the layers keep of rows they have seen, before they have seen any."""
        return tuple(layer.new_entry(batch, capacity, dtype) for layer in self)

    def apart(self, entries: Entries) -> Entries:
        """The entries of single layers, of those that `new_entries` has made."""
        return entries

    def together(self, entries: Entries) -> Entries:
        """The inverse of `apart`."""
        return entries


def run(layers: Sequence[Any], x: jax.Array, entries: Entries, apply: Apply) -> tuple[jax.Array, Entries]:
    """What `apply(i, layer, x, entry)` makes of x [B T D], layer after layer, and the new entries.

    Weights that lie in host memory, or are split over `fsdp`, are fetched while the layer before computes. Tying a
    fetch to what that layer begins with keeps the compiler from fetching everything at once: two layers are on the
    device, whatever their number.
    """
    if not any(map(_is_in_host_memory, jax.tree.leaves(layers[0], is_leaf=is_parameter))):
        return _in_order(layers, x, entries, apply)

    def turn(carry: tuple[jax.Array, jax.Array, Entries]) -> tuple[jax.Array, jax.Array, Entries]:
        return carry[0] + 1, *_in_order(layers, *carry[1:], apply)

    # A loop of one turn, though the compiler cannot know that: what is not in a loop it does fetch at once.
    turns = jax.lax.optimization_barrier(jnp.int32(1))
    _, x, entries = jax.lax.while_loop(lambda carry: carry[0] < turns, turn, (jnp.int32(0), x, entries))
    return x, entries


def _in_order(layers: Sequence[Any], x: jax.Array, entries: Entries, apply: Apply) -> tuple[jax.Array, Entries]:
    (ahead, x), new = _fetched(layers[0], x), []
    for i, entry in enumerate(entries):
        layer = ahead
        if i + 1 < len(layers):
            ahead, x = _fetched(layers[i + 1], x)
        x, entry = apply(i, layer, x, entry)
        new.append(entry)
    return x, tuple(new)


def _fetched(layer: Any, x: jax.Array) -> tuple[Any, jax.Array]:
    """The layer with all its weights on the device, but for what `tensor` and its like split; and x, to go on from."""
    leaves, tree = jax.tree.flatten(layer, is_leaf=is_parameter)
    remote = [
        i for i, leaf in enumerate(leaves) if _is_in_host_memory(leaf) or gathered(leaf.shape, leaf.axes) is not None
    ]
    if not remote:
        return layer, x
    *values, x = jax.lax.optimization_barrier((*(leaves[i][...] for i in remote), x))
    for i, value in zip(remote, values, strict=True):
        leaves[i] = leaves[i].replace(gather(jax.device_put(value, jax.memory.Space.Device), leaves[i].axes))
    return jax.tree.unflatten(tree, leaves), x


def _is_in_host_memory(parameter: Any) -> bool:
    return jax.typeof(parameter[...]).memory_space == jax.memory.Space.Host
