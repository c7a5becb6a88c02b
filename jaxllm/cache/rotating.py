"""The cache of a layer with a sliding window: the last positions of each row, in a ring buffer."""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Self

import jax
import jax.numpy as jnp

from jaxllm.cache.call import CallContext, KVView
from jaxllm.cache.layer_cache import TIME_AXIS, KVCache, LayerCache, pad_time, write_at
from jaxllm.cache.quantized_kv import KVArray


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RotatingKVCache(LayerCache):
    """Stores the last `window` positions of each row. Position p is stored at index p % size.

    The size grows with the row until it reaches `window`, so short rows use little memory.
    """

    key: KVArray
    value: KVArray | None
    window: int = field(metadata={"static": True})

    @classmethod
    def new(cls, cache: KVCache, window: int) -> Self:
        """Creates an empty cache from an empty `KVCache` of at most `window` positions."""
        return cls(cache.key, cache.value, window)

    @property
    def capacity(self) -> float:
        """Length of the longest row that fits; infinite once the size has reached the window."""
        if self.size >= self.window:
            return math.inf
        return self.size

    @property
    def sliding_window(self) -> float:
        """Length of the longest row of which every position is stored."""
        return self.window

    def resize(self, capacity: int) -> Self:
        """Returns the cache with room for rows of `capacity` positions; its size never exceeds the window."""
        return super().resize(max(self.size, min(capacity, self.window)))

    def append(self, call: CallContext, key: jax.Array, value: jax.Array | None = None) -> tuple[Self, KVView]:
        """Appends the valid keys [B T K H] and values [B T K V] of one call.

        Padding beyond `call.lengths` is not stored: it would overwrite positions that are still visible.
        """
        new = self.encode(key, value)
        if call.start is None:
            return self._store_last(call, new, call.start_positions), KVView.from_call(key, value)
        if key.shape[1] == 1:
            index = call.start % self.size
            cache = self.map_arrays(partial(write_at, index=index, call=call), new)
            valid = jnp.minimum(call.lengths, self.size)
            return cache, KVView(cache.key, cache.value, lengths=valid, in_order=False)
        stored = jnp.minimum(call.start, self.size)
        first = call.start - stored  # position of the oldest key that is stored
        joined = jax.tree.map(partial(self._concatenate, first, stored), self, new)
        return self._store_last(call, joined, first), KVView(joined.key, joined.value, stored)

    def _concatenate(self, first: jax.Array, stored: jax.Array, array: jax.Array, new: jax.Array) -> jax.Array:
        """Returns the stored positions in order, from position `first` [B] on, followed by the new ones.

        Args:
          first: position of each row's oldest stored key, int32 [B].
          stored: number of positions that each row has stored, int32 [B].
          array: stored keys or values, [B K S ...].
          new: the call's keys or values, [B K T ...].
        """
        index = (first[:, None] + jnp.arange(self.size)) % self.size
        in_order = pad_time(_take_positions(array, index), new.shape[TIME_AXIS])
        return jax.vmap(partial(jax.lax.dynamic_update_slice_in_dim, axis=TIME_AXIS - 1))(in_order, new, stored)

    def _store_last(self, call: CallContext, joined: Self, first: jax.Array) -> Self:
        """Stores the last positions of each row, out of arrays that start at position `first` [B]."""
        last = call.lengths[:, None] - 1
        position = last - (last - jnp.arange(self.size)) % self.size  # the latest position of each index
        is_present = position >= first[:, None]
        index = jnp.maximum(position - first[:, None], 0)

        def choose(array: jax.Array, joined: jax.Array) -> jax.Array:
            mask = is_present.reshape(len(position), 1, -1, *[1] * (array.ndim - 3))
            return jnp.where(mask, _take_positions(joined, index), array)

        return self.map_arrays(choose, joined)


def _take_positions(array: jax.Array, index: jax.Array) -> jax.Array:
    """Returns the positions [B n] of an array [B K S ...]."""
    return jax.vmap(partial(jnp.take, axis=TIME_AXIS - 1))(array, index)
