"""The caches of a layer with cross-attention: one for its self-attention, one for the encoder's keys and values."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import jax

from jaxllm.cache.call import KVView
from jaxllm.cache.layer_cache import TIME_AXIS, KVCache, LayerCache, kv_logical_axes
from jaxllm.cache.quantized_kv import KVArray
from jaxllm.sharding import constrain


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CrossKVCache:
    """Stores the keys [B K S H] and values [B K S V] of an encoder's output, and its lengths, int32 [B]."""

    key: KVArray
    value: KVArray | None
    lengths: jax.Array

    @classmethod
    def new(cls, cache: KVCache, lengths: jax.Array) -> Self:
        """Creates an empty cache from an empty `KVCache` of the encoder's length."""
        return cls(cache.key, cache.value, lengths)

    def store(self, key: jax.Array, value: jax.Array, lengths: jax.Array) -> Self:
        """Stores the encoder's keys [B S K H] and values [B S K V], of which the first `lengths` [B] are valid."""
        stored = KVCache(self.key, self.value)
        encoded = stored.encode(key, value)
        stored = stored.map_arrays(partial(jax.lax.dynamic_update_slice_in_dim, start_index=0, axis=TIME_AXIS), encoded)
        return replace(self, key=stored.key, value=stored.value, lengths=constrain(lengths, "batch"))

    def view(self) -> KVView:
        """Returns a view of the valid keys and values."""
        return KVView(self.key, self.value, lengths=self.lengths)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CrossAttentionCache:
    """The caches of a layer that has self-attention and cross-attention."""

    self_attention: LayerCache
    cross_attention: CrossKVCache

    @property
    def capacity(self) -> float:
        """Length of the longest row that fits."""
        return self.self_attention.capacity

    @property
    def sliding_window(self) -> float:
        """Length of the longest row of which every position is stored; infinite without a window."""
        return self.self_attention.sliding_window

    def resize(self, capacity: int) -> Self:
        """Returns the caches with room for rows of `capacity` positions."""
        return replace(self, self_attention=self.self_attention.resize(capacity))

    def logical_axes(self) -> Self:
        """Returns the same tree with the `LogicalAxes` of each array."""
        return kv_logical_axes(self)
