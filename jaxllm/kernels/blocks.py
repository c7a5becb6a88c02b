"""Queries and keys a block at a time: what the result and the gradient of blockwise attention share."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxllm.kernels.inputs import NOTHING, Inputs, Scores, seen, slopes_of, softcap, visible, with_alibi


@dataclass(frozen=True)
class Blocks:
    """How many queries and keys are taken at a time."""

    queries: int = 256
    keys: int = 512


class Keys(NamedTuple):
    """Keys [B K S H] and values [B K S V] with their scales [B K S], to be read `size` at a time."""

    key: jax.Array
    value: jax.Array | None
    key_scale: jax.Array | None
    value_scale: jax.Array | None
    lengths: jax.Array | None
    slopes: jax.Array | None
    scores: Scores
    size: int

    @classmethod
    def of(cls, inputs: Inputs, scores: Scores, size: int) -> "Keys":
        """Those of a call."""
        optional = (inputs.value, inputs.key_scale, inputs.value_scale)
        value, *scales = (None if array is None else array.swapaxes(1, 2) for array in optional)
        size = min(size, inputs.key.shape[1])
        arrays = inputs.key.swapaxes(1, 2), value, scales[0], scales[1], inputs.lengths, slopes_of(inputs, scores)
        return cls(*arrays, scores, size)

    @property
    def heads(self) -> int:
        """The number of key-value heads."""
        return self.key.shape[1]

    @property
    def value_dim(self) -> int:
        """The size of a head's values."""
        return self.scores.value_dim or self.key.shape[3] if self.value is None else self.value.shape[3]

    def range(self, position: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The first block that any query at positions [B t] may see anything of, and the one behind the last."""
        size = self.key.shape[2]
        length = jnp.int32(size) if self.lengths is None else jnp.minimum(self.lengths.max(), size)
        low, _ = seen(self.scores, position.min(), length)
        _, high = seen(self.scores, position.max(), length)
        return low // self.size, -(-high // self.size)

    def start(self, index: jax.Array) -> jax.Array:
        """Where a block begins: the last one earlier, where keys are not whole blocks."""
        return jnp.minimum(index * self.size, self.key.shape[2] - self.size)

    def take(self, array: jax.Array, index: jax.Array) -> jax.Array:
        """A block of an array [B K S ...], and of no other, whatever it is converted to afterwards."""
        array, index = jax.lax.optimization_barrier((array, index))  # or XLA's CPU converts all of it before the loop
        return jax.lax.dynamic_slice_in_dim(array, self.start(index), self.size, axis=2)

    def add(self, array: jax.Array, block: jax.Array, index: jax.Array) -> jax.Array:
        """The array [B K S ...] with something added to a block of it."""
        return jax.lax.dynamic_update_slice_in_dim(array, self.take(array, index) + block, self.start(index), axis=2)

    def block(self, index: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
        """Keys [B K s H] and values [B K s V] of a block, before they are scaled."""
        key = self.take(self.key, index)
        value = key[..., : self.value_dim] if self.value is None else self.take(self.value, index)
        return key.astype(dtype), value.astype(dtype)

    def scaled(self, x: jax.Array, scale: jax.Array | None, index: jax.Array) -> jax.Array:
        """Scores or weights [B K G t s], times the scale [B K S] of each key or value if they have any."""
        return x if scale is None else x * self.take(scale, index)[:, :, None, None]

    def scored(self, query: jax.Array, key: jax.Array, position: jax.Array, index: jax.Array) -> jax.Array:
        """Scores [B K G t s] of queries [B K G t H] at positions [B t]; those hidden are far below `NOTHING`."""
        dtype, scores = jnp.promote_types(query.dtype, jnp.float32), self.scores
        products = jnp.einsum("bkgth,bksh->bkgts", query, key, preferred_element_type=dtype)
        products = self.scaled(products, self.key_scale, index) * scores.scale
        if scores.softcap is not None:
            products = softcap(products, scores.softcap)
        at = self.start(index) + jnp.arange(self.size, dtype=jnp.int32)
        products = with_alibi(products, scores, self.slopes, position, at)
        mask = visible(position, at, scores, self.lengths) & (at >= index * self.size)
        return jnp.where(mask[:, None, None], products, 10 * NOTHING)


def grouped(query: jax.Array, kv_heads: int) -> jax.Array:
    """Arrays of queries [B t N ...] by the key-value heads that they share: [B K G t ...]."""
    return jnp.moveaxis(query.reshape(*query.shape[:2], kv_heads, -1, *query.shape[3:]), 1, 3)


def joined(x: jax.Array) -> jax.Array:
    """The inverse, of [B K G t ...]."""
    batch, kv_heads, groups, length = x.shape[:4]
    return jnp.moveaxis(x, 3, 1).reshape(batch, length, kv_heads * groups, *x.shape[4:])


def cut(x: jax.Array, size: int, **padding: Any) -> jax.Array:
    """An array [B T ...] in blocks of T, padded to whole ones: [T/size B size ...]."""
    batch, length = x.shape[:2]
    count = -(-length // size)
    padded = jnp.pad(x, ((0, 0), (0, count * size - length)) + ((0, 0),) * (x.ndim - 2), **padding)
    return padded.reshape(batch, count, size, *x.shape[2:]).swapaxes(0, 1)


def uncut(blocks: jax.Array, length: int) -> jax.Array:
    """The inverse, without the padding."""
    x = blocks.swapaxes(0, 1)
    return x.reshape(len(x), -1, *x.shape[3:])[:, :length]
