"""Key-value caches: a pytree with one entry per layer, each entry free to be of its own kind.

All arrays of an entry are [B K S ...], in the order that decoding reads them.
"""

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp

from jaxllm.narrow import Kept, kept_as, nothing_kept
from jaxllm.sharding import constrain

AXES = ("batch", "kv_heads", "time", "head")
_TIME = AXES.index("time")


class Span(NamedTuple):
    """The tokens of one call: where each row's first one stands, int32 [B], and the row's length with them, int32 [B].

    `start` is None where all rows begin with them. `horizon`, int32 [B], is the length that a row's positions are
    scaled for: more than `lengths` while the rest of a prompt is still to come.
    """

    start: jax.Array | None
    lengths: jax.Array
    horizon: jax.Array

    @property
    def begun(self) -> jax.Array:
        """Where each row's first token stands, int32 [B]."""
        return jnp.zeros_like(self.lengths) if self.start is None else self.start

    def positions(self, tokens: int) -> jax.Array:
        """Positions of the call's tokens, int32 [B T]."""
        return self.begun[:, None] + jnp.arange(tokens, dtype=jnp.int32)


class Seen(NamedTuple):
    """What the queries of a call attend to: keys [B K S H] and values [B K S V], as they are kept.

    Values are None where they are part of their keys. `offsets` [B] is where the first query stands among the keys
    (None: with the first), `lengths` [B] how many keys count (None: all). `ordered` says that keys stand in the order
    of their positions; else they are just those that one query per row sees.
    """

    key: Kept
    value: Kept | None
    offsets: jax.Array | None = None
    lengths: jax.Array | None = None
    ordered: bool = True


class Entry:
    """What a layer keeps of a row: keys [B K S H], and values [B K S V] unless those are part of the keys."""

    key: Kept
    value: Kept | None

    @property
    def size(self) -> int:
        """The number of positions that are kept."""
        return jax.tree.leaves(self.key)[0].shape[_TIME]

    @property
    def capacity(self) -> float:
        """The longest row that there is room for."""
        return self.size

    def append(self, span: Span, key: jax.Array, value: jax.Array | None = None) -> tuple[Self, Seen]:
        """Takes in keys [B T K H] and values [B T K V] of a call, and says what its queries attend to.

        Rows that the call adds nothing to, by `span`, stay as they are.
        """
        raise NotImplementedError

    def grown(self, capacity: int) -> Self:
        """The same with room for `capacity` positions."""
        more = capacity - self.size
        return self._map(lambda x: jnp.pad(x, [(0, more if axis == _TIME else 0) for axis in range(x.ndim)]))

    def _map(self, f: Any, *others: Any) -> Self:
        """The entry with each of its arrays, and those of others at the same place, put through f."""
        return jax.tree.map(lambda *x: constrain(f(*x), *AXES[: x[0].ndim]), self, *others)

    def _like(self, key: jax.Array, value: jax.Array | None) -> Self:
        """Keys and values of a call, as this entry keeps them."""
        kept = (x if x is None else kept_as(x.swapaxes(1, 2), self.key) for x in (key, value))
        return replace(self, **dict(zip(("key", "value"), kept, strict=True)))  # pyright: ignore[reportArgumentType]


def _seen_first(key: jax.Array, value: jax.Array | None) -> Seen:
    """A call that begins its rows attends to its own keys alone."""
    return Seen(key.swapaxes(1, 2), None if value is None else value.swapaxes(1, 2))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Full(Entry):
    """Every position of a row, at its index."""

    key: Kept
    value: Kept | None

    @classmethod
    def new(cls, batch: int, kv_heads: int, capacity: int, dims: tuple[int, int | None], dtype: Any) -> Self:
        """An empty one; `dims` are the sizes of keys and values, the latter None where a value is part of its key."""
        key, value = (None if dim is None else nothing_kept((batch, kv_heads, capacity, dim), dtype) for dim in dims)
        return cls(key, value)._map(lambda x: x)  # pyright: ignore[reportArgumentType]

    def append(self, span: Span, key: jax.Array, value: jax.Array | None = None) -> tuple[Self, Seen]:
        """Writes at positions `start[b]`, `start[b] + 1`, ... of each row; those behind its length mean nothing."""
        entry = self._map(lambda kept, new: _written(kept, new, span.begun, span), self._like(key, value))
        return entry, _seen_first(key, value) if span.start is None else Seen(entry.key, entry.value, span.start)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Ring(Entry):
    """The last `window` positions of a row, position p at index p modulo the size, which grows up to the window."""

    key: Kept
    value: Kept | None
    window: int = field(metadata={"static": True})

    @classmethod
    def new(cls, entry: Full, window: int) -> Self:
        """An empty one from an empty entry, of which it keeps no more than a window."""
        return cls(entry.key, entry.value, window)

    @property
    def capacity(self) -> float:
        """Any number, once it is a window long."""
        return math.inf if self.size >= self.window else self.size

    def grown(self, capacity: int) -> Self:
        """The same with room for `capacity` positions, of which no more than a window is kept."""
        return super().grown(max(self.size, min(capacity, self.window)))

    def append(self, span: Span, key: jax.Array, value: jax.Array | None = None) -> tuple[Self, Seen]:
        """Takes in what counts of a call, as `span.lengths` says: nothing else may take the place of what is kept."""
        new = self._like(key, value)
        if span.start is None:
            return self._last(span, new, span.begun), _seen_first(key, value)
        if key.shape[1] == 1:
            entry = self._map(lambda kept, one: _written(kept, one, span.begun % self.size, span), new)
            return entry, Seen(entry.key, entry.value, None, jnp.minimum(span.lengths, self.size), ordered=False)
        held = jnp.minimum(span.start, self.size)  # before the call, and in front of it in what is attended to
        first = span.start - held
        joined = jax.tree.map(partial(self._joined, first, held), self, new)
        return self._last(span, joined, first), Seen(joined.key, joined.value, held)

    def _joined(self, first: jax.Array, held: jax.Array, kept: jax.Array, new: jax.Array) -> jax.Array:
        """What is kept in the order of positions, from `first` [B] on, and behind the `held` [B] of them the new."""
        index = (first[:, None] + jnp.arange(self.size)) % self.size
        ordered = _take(kept, index)
        room = jnp.pad(ordered, [(0, new.shape[_TIME] if axis == _TIME else 0) for axis in range(kept.ndim)])
        return jax.vmap(partial(jax.lax.dynamic_update_slice_in_dim, axis=_TIME - 1))(room, new, held)

    def _last(self, span: Span, joined: Self, first: jax.Array) -> Self:
        """The last positions of each row, from arrays that have them in their order from position `first` [B] on."""
        last = span.lengths[:, None] - 1
        position = last - (last - jnp.arange(self.size)) % self.size  # the latest that belongs at an index

        def choose(kept: jax.Array, from_: jax.Array) -> jax.Array:
            there = (position >= first[:, None]).reshape(len(position), 1, -1, *[1] * (kept.ndim - 3))
            return jnp.where(there, _take(from_, jnp.maximum(position - first[:, None], 0)), kept)

        return self._map(choose, joined)


def _written(kept: jax.Array, new: jax.Array, at: jax.Array, span: Span) -> jax.Array:
    """An array [B K S ...] with another [B K T ...] from index `at` [B] on, in rows that the call adds anything to."""

    def write(kept: jax.Array, new: jax.Array, at: jax.Array, adds: jax.Array) -> jax.Array:
        old = jax.lax.dynamic_slice_in_dim(kept, at, new.shape[_TIME - 1], _TIME - 1)
        return jax.lax.dynamic_update_slice_in_dim(kept, jnp.where(adds, new, old), at, _TIME - 1)

    return jax.vmap(write)(kept, new, at, span.lengths > span.begun)


def _take(array: jax.Array, index: jax.Array) -> jax.Array:
    """Positions [B n] of an array [B K S ...]."""
    return jax.vmap(partial(jnp.take, axis=_TIME - 1))(array, index)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tokens:
    """The tokens themselves, int32 [B S], and the length [B] that positions of what is kept were scaled for."""

    token: jax.Array
    horizon: jax.Array

    @property
    def capacity(self) -> int:
        """The longest row that there is room for."""
        return self.token.shape[1]

    def append(self, span: Span, token: jax.Array) -> Self:
        """Takes in the tokens [B T] of a call."""
        write = jax.vmap(partial(jax.lax.dynamic_update_slice_in_dim, axis=0))
        return type(self)(write(self.token, token, span.begun), span.horizon)

    def grown(self, capacity: int) -> Self:
        """The same with room for `capacity` positions."""
        return replace(self, token=jnp.pad(self.token, ((0, 0), (0, capacity - self.capacity))))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """What has been seen of each row: an entry per layer, and the number of positions filled, int32 [B].

    Lengths are None as long as nothing was seen. Entries are None where nothing is to be kept; the tokens are kept for
    models that may have to read them again.
    """

    entries: tuple[Entry | None, ...]
    lengths: jax.Array | None = None
    tokens: Tokens | None = None

    @property
    def capacity(self) -> float:
        """The longest row that there is room for; 0 without entries."""
        return min((kept.capacity for kept in (*self.entries, self.tokens) if kept is not None), default=0)

    @property
    def window(self) -> float:
        """The longest row of which everything is kept."""
        return min((entry.window for entry in self.entries if isinstance(entry, Ring)), default=math.inf)

    def trimmed(self, filled: int, length: int) -> Self | None:
        """Of rows with `filled` positions the first ones; None where a window has let go of what those attended to."""
        if length < filled > self.window or self.lengths is None:
            return None
        return replace(self, lengths=jnp.full_like(self.lengths, length))

    def grown(self, capacity: int) -> Self:
        """The same with room for `capacity` positions."""
        entries = tuple(entry and entry.grown(capacity) for entry in self.entries)
        return replace(self, entries=entries, tokens=self.tokens and self.tokens.grown(capacity))
