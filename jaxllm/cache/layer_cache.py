"""The cache of one attention layer: its interface, and the cache that stores every position."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import jax
import jax.numpy as jnp

from jaxllm.cache.call import CallContext, KVView, to_cache_layout
from jaxllm.cache.quantized_kv import KVArray, encode_like, zeros_kv
from jaxllm.sharding import constrain

KV_AXES = ("batch", "kv_heads", "time", "head")  # of keys and values; their scales have all but the last
TIME_AXIS = KV_AXES.index("time")


class LogicalAxes(tuple):
    """Logical axes of one array. A leaf of a pytree, unlike a plain tuple."""


def kv_logical_axes(tree: Any) -> Any:
    """Returns a tree of keys, values, their scales and lengths with the `LogicalAxes` of each array."""
    return jax.tree.map(lambda x: LogicalAxes(KV_AXES[: x.ndim]), tree)


class LayerCache:
    """Stores the keys [B K S H] and values [B K S V] of one layer. Values that are part of the keys are None."""

    key: KVArray
    value: KVArray | None

    @property
    def size(self) -> int:
        """Number of positions that are stored."""
        return jax.tree.leaves(self.key)[0].shape[TIME_AXIS]

    @property
    def capacity(self) -> float:
        """Length of the longest row that fits."""
        return self.size

    @property
    def sliding_window(self) -> float:
        """Length of the longest row of which every position is stored; infinite without a window."""
        return math.inf

    def append(self, call: CallContext, key: jax.Array, value: jax.Array | None = None) -> tuple[Self, KVView]:
        """Appends the keys [B T K H] and values [B T K V] of one call.

        Rows for which the call has no valid token keep their contents.

        Returns:
          The updated cache, and a `KVView` of everything that this call's queries can attend to.
        """
        raise NotImplementedError

    def resize(self, capacity: int) -> Self:
        """Returns the cache with room for rows of `capacity` positions."""
        return self.map_arrays(lambda x: pad_time(x, capacity - self.size))

    def logical_axes(self) -> Self:
        """Returns the same tree with the `LogicalAxes` of each array."""
        return kv_logical_axes(self)

    def map_arrays(self, f: Callable[..., jax.Array], *others: Any) -> Self:
        """Returns the cache with `f` applied to each array and to the same arrays of `others`."""
        return jax.tree.map(lambda *x: constrain(f(*x), *KV_AXES[: x[0].ndim]), self, *others)

    def encode(self, key: jax.Array, value: jax.Array | None) -> Self:
        """Returns keys [B T K H] and values [B T K V] of a call in this cache's layout and dtype."""
        key_array = encode_like(to_cache_layout(key), self.key)
        value_array = None
        if value is not None:
            value_array = encode_like(to_cache_layout(value), self.key)
        return replace(self, key=key_array, value=value_array)  # pyright: ignore[reportArgumentType]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KVCache(LayerCache):
    """Stores every position of a row, position p at index p."""

    key: KVArray
    value: KVArray | None

    @classmethod
    def new(cls, batch: int, kv_heads: int, capacity: int, dims: tuple[int, int | None], dtype: Any) -> Self:
        """Creates an empty cache. `dims` are the sizes H and V; V is None if values are part of the keys."""
        key_dim, value_dim = dims
        key = zeros_kv((batch, kv_heads, capacity, key_dim), dtype)
        value = None
        if value_dim is not None:
            value = zeros_kv((batch, kv_heads, capacity, value_dim), dtype)
        return cls(key, value).map_arrays(lambda x: x)

    def append(self, call: CallContext, key: jax.Array, value: jax.Array | None = None) -> tuple[Self, KVView]:
        """Writes keys [B T K H] and values [B T K V] from position `call.start[b]` of each row on.

        What is written beyond a row's length is padding.
        """
        start = call.start_positions
        cache = self.map_arrays(partial(write_at, index=start, call=call), self.encode(key, value))
        if call.start is None:
            return cache, KVView.from_call(key, value)
        return cache, KVView(cache.key, cache.value, call.start)


def write_at(array: jax.Array, update: jax.Array, index: jax.Array, call: CallContext) -> jax.Array:
    """Writes `update` [B K T ...] into `array` [B K S ...] from `index` [B] on, in rows with valid tokens only."""

    def write_row(array: jax.Array, update: jax.Array, index: jax.Array, has_tokens: jax.Array) -> jax.Array:
        current = jax.lax.dynamic_slice_in_dim(array, index, update.shape[TIME_AXIS - 1], TIME_AXIS - 1)
        update = jnp.where(has_tokens, update, current)
        return jax.lax.dynamic_update_slice_in_dim(array, update, index, TIME_AXIS - 1)

    return jax.vmap(write_row)(array, update, index, call.lengths > call.start_positions)


def pad_time(array: jax.Array, count: int) -> jax.Array:
    """Appends `count` zero positions to an array [B K S ...]."""
    widths = [(0, 0)] * array.ndim
    widths[TIME_AXIS] = (0, count)
    return jnp.pad(array, widths)
