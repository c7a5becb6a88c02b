"""Key-value caches: a pytree with one entry per layer, each entry free to be of its own kind."""

from dataclasses import dataclass, fields
from functools import partial
from typing import Self

import jax
import jax.numpy as jnp


class Entry:
    """What a layer keeps of every position: arrays [B S ...], each position at its index."""

    def append(self, start: jax.Array, *new: jax.Array) -> Self:
        """Writes arrays [B T ...] at positions `start[b]`, `start[b] + 1`, ... of each row."""
        write = jax.vmap(partial(jax.lax.dynamic_update_slice_in_dim, axis=0))
        return type(self)(*(write(kept, added, start) for kept, added in zip(self._arrays(), new, strict=True)))

    def grown(self, capacity: int) -> Self:
        """The same with room for `capacity` positions."""
        more = capacity - self.capacity
        return type(self)(*(jnp.pad(a, ((0, 0), (0, more)) + ((0, 0),) * (a.ndim - 2)) for a in self._arrays()))

    @property
    def capacity(self) -> int:
        """The number of positions that there is room for."""
        return self._arrays()[0].shape[1]

    def _arrays(self) -> list[jax.Array]:
        return [getattr(self, field.name) for field in fields(self)]  # pyright: ignore[reportArgumentType]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Full(Entry):
    """Every key and value of a row, [B S K H] each."""

    key: jax.Array
    value: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Latent(Entry):
    """What keys and values of latent attention are made from: latents [B S R] and the shared rotary key [B S H]."""

    latent: jax.Array
    rope_key: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tokens(Entry):
    """The tokens themselves, int32 [B S]."""

    token: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """What has been seen of each row: an entry per layer, and the number of positions filled, int32 [B].

    Entries are None where nothing is to be kept; the tokens are kept for models that may have to read them again.
    """

    entries: tuple[Entry | None, ...]
    lengths: jax.Array
    tokens: Tokens | None = None

    @property
    def capacity(self) -> int:
        """The number of positions that there is room for; 0 without entries."""
        return min((entry.capacity for entry in self.entries if entry is not None), default=0)

    def grown(self, capacity: int) -> Self:
        """The same with room for `capacity` positions."""
        entries = tuple(entry and entry.grown(capacity) for entry in self.entries)
        return type(self)(entries, self.lengths, self.tokens and self.tokens.grown(capacity))
