"""Key-value caches: a pytree with one entry per layer, each entry free to be of its own kind."""

from dataclasses import dataclass
from functools import partial
from typing import Self

import jax
import jax.numpy as jnp

from jaxllm.config import Decoder


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Full:
    """Every key and value of a row, at the index of its position: `key` and `value` are [B S K H]."""

    key: jax.Array
    value: jax.Array

    @classmethod
    def empty(cls, batch: int, capacity: int, heads: int, head_dim: int, dtype: jnp.dtype) -> Self:
        """An entry of zeros for `capacity` positions."""
        zeros = jnp.zeros((batch, capacity, heads, head_dim), dtype)
        return cls(zeros, zeros)

    def append(self, key: jax.Array, value: jax.Array, start: jax.Array) -> Self:
        """Writes key and value [B T K H] at positions `start[b]`, `start[b] + 1`, ... of each row."""
        write = jax.vmap(partial(jax.lax.dynamic_update_slice_in_dim, axis=0))
        return type(self)(write(self.key, key, start), write(self.value, value, start))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """What has been seen of each row: an entry per layer, and the number of positions filled, int32 [B].

    Entries are None where nothing is to be kept.
    """

    entries: tuple[Full | None, ...]
    lengths: jax.Array

    @classmethod
    def none(cls, config: Decoder, batch: int) -> Self:
        """No cache: every row begins here, and is not remembered."""
        return cls((None,) * config.num_layers, jnp.zeros(batch, jnp.int32))

    @classmethod
    def empty(cls, config: Decoder, batch: int, capacity: int, dtype: jnp.dtype) -> Self:
        """A cache for `batch` rows of up to `capacity` positions."""
        parts = (config.block(layer).attention for layer in range(config.num_layers))
        entries = tuple(Full.empty(batch, capacity, part.kv_heads, part.head_dim, dtype) for part in parts)
        return cls(entries, jnp.zeros(batch, jnp.int32))
