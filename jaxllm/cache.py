"""Key-value caches: a pytree with one entry per layer, each entry free to be of its own kind."""

from dataclasses import dataclass
from functools import partial
from typing import Self

import jax
import jax.numpy as jnp


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

    def grown(self, capacity: int) -> Self:
        """The same with room for `capacity` positions."""
        padding = ((0, 0), (0, capacity - self.key.shape[1]), (0, 0), (0, 0))
        return type(self)(jnp.pad(self.key, padding), jnp.pad(self.value, padding))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """What has been seen of each row: an entry per layer, and the number of positions filled, int32 [B].

    Entries are None where nothing is to be kept.
    """

    entries: tuple[Full | None, ...]
    lengths: jax.Array

    @property
    def capacity(self) -> int:
        """The number of positions that there is room for; 0 without entries."""
        return min((entry.key.shape[1] for entry in self.entries if entry is not None), default=0)

    def grown(self, capacity: int) -> Self:
        """The same with room for `capacity` positions."""
        entries = tuple(entry and entry.grown(capacity) for entry in self.entries)
        return type(self)(entries, self.lengths)
