"""The cache of a whole model: one entry for each layer, the rows' lengths, and their tokens where they are needed."""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import jax
import jax.numpy as jnp

from jaxllm.cache.call import CallContext
from jaxllm.cache.cross_attention import CrossAttentionCache
from jaxllm.cache.layer_cache import LayerCache, LogicalAxes

BlockCache = LayerCache | CrossAttentionCache
LayerCaches = tuple[BlockCache | None, ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TokenCache:
    """Stores the tokens of each row, for models that may have to process them again.

    Attributes:
      tokens: int32 [B S].
      rope_length: length that rotary scaling assumed for the stored keys, int32 [B].
    """

    tokens: jax.Array
    rope_length: jax.Array

    @property
    def capacity(self) -> int:
        """Length of the longest row that fits."""
        return self.tokens.shape[1]

    def append(self, call: CallContext, tokens: jax.Array) -> Self:
        """Appends the tokens [B T] of a call."""
        write = jax.vmap(partial(jax.lax.dynamic_update_slice_in_dim, axis=0))
        return type(self)(write(self.tokens, tokens, call.start_positions), call.rope_length)

    def resize(self, capacity: int) -> Self:
        """Returns the cache with room for rows of `capacity` tokens."""
        return replace(self, tokens=jnp.pad(self.tokens, ((0, 0), (0, capacity - self.capacity))))

    def logical_axes(self) -> Self:
        """Returns the same tree with the `LogicalAxes` of each array."""
        return jax.tree.map(lambda x: LogicalAxes(("batch", "time")[: x.ndim]), self)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """Everything that a model keeps of the rows that it has processed.

    Attributes:
      layers: cache of each layer, or None where nothing is cached.
      lengths: number of positions of each row, int32 [B]. None as long as the cache is empty.
      tokens: the rows' tokens, for models that may have to process them again.
    """

    layers: LayerCaches
    lengths: jax.Array | None = None
    tokens: TokenCache | None = None

    @property
    def capacity(self) -> float:
        """Length of the longest row that fits; 0 if nothing is cached."""
        capacities = [entry.capacity for entry in self.layers if entry is not None]
        if self.tokens is not None:
            capacities.append(self.tokens.capacity)
        return min(capacities, default=0)

    @property
    def sliding_window(self) -> float:
        """Length of the longest row of which every layer stores every position; infinite without a window."""
        return min((entry.sliding_window for entry in self.layers if entry is not None), default=math.inf)

    def truncate(self, length: int, *, filled: int) -> Self | None:
        """Returns the cache of the first `length` positions of rows that have `filled` positions.

        Returns None if a sliding window has overwritten keys that those positions attend to.
        """
        if self.lengths is None or (length < filled and filled > self.sliding_window):
            return None
        return replace(self, lengths=jnp.full_like(self.lengths, length))

    def resize(self, capacity: int) -> Self:
        """Returns the cache with room for rows of `capacity` positions."""
        layers = tuple(None if entry is None else entry.resize(capacity) for entry in self.layers)
        tokens = None
        if self.tokens is not None:
            tokens = self.tokens.resize(capacity)
        return replace(self, layers=layers, tokens=tokens)
