"""Blocks of queries and keys, which blockwise attention and its gradient share."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxllm.kernels.spec import (
    MIN_LSE,
    AttentionInputs,
    AttentionSpec,
    add_alibi,
    alibi_slopes,
    attention_mask,
    kv_range,
    softcap,
)


@dataclass(frozen=True)
class BlockSizes:
    """Number of queries and keys that are processed at a time."""

    queries: int = 256
    keys: int = 512


class KeyBlocks(NamedTuple):
    """Keys [B K S H], values [B K S V] and their scales [B K S], read in blocks of `size`."""

    key: jax.Array
    value: jax.Array | None
    key_scale: jax.Array | None
    value_scale: jax.Array | None
    lengths: jax.Array | None
    slopes: jax.Array | None
    spec: AttentionSpec
    size: int

    @classmethod
    def of(cls, inputs: AttentionInputs, spec: AttentionSpec, size: int) -> "KeyBlocks":
        """Returns the key blocks of a call."""
        return cls(
            inputs.key,
            inputs.value,
            inputs.key_scale,
            inputs.value_scale,
            inputs.lengths,
            alibi_slopes(inputs, spec),
            spec,
            min(size, inputs.key.shape[2]),
        )

    @property
    def heads(self) -> int:
        """Number of key-value heads."""
        return self.key.shape[1]

    @property
    def value_dim(self) -> int:
        """Size of a head's values."""
        if self.value is None:
            return self.spec.value_dim or self.key.shape[3]
        return self.value.shape[3]

    def range(self, position: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the first block that any query at positions [B t] attends to, and the one after the last."""
        size = self.key.shape[2]
        if self.lengths is None:
            length = jnp.int32(size)
        else:
            length = jnp.minimum(self.lengths.max(), size)
        low, _ = kv_range(self.spec, position.min(), length)
        _, high = kv_range(self.spec, position.max(), length)
        return low // self.size, -(-high // self.size)

    def start(self, index: jax.Array) -> jax.Array:
        """Returns the first key of a block. The last block starts earlier if the keys are not whole blocks."""
        return jnp.minimum(index * self.size, self.key.shape[2] - self.size)

    def take(self, array: jax.Array, index: jax.Array) -> jax.Array:
        """Returns one block of an array [B K S ...]; the barrier keeps XLA from converting the whole array first."""
        array, index = jax.lax.optimization_barrier((array, index))  # or XLA's CPU converts all of it before the loop
        return jax.lax.dynamic_slice_in_dim(array, self.start(index), self.size, axis=2)

    def add(self, array: jax.Array, block: jax.Array, index: jax.Array) -> jax.Array:
        """Adds `block` to a block of an array [B K S ...]."""
        return jax.lax.dynamic_update_slice_in_dim(array, self.take(array, index) + block, self.start(index), axis=2)

    def block(self, index: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
        """Returns the keys [B K s H] and values [B K s V] of a block, without their scales."""
        key = self.take(self.key, index)
        if self.value is None:
            value = key[..., : self.value_dim]
        else:
            value = self.take(self.value, index)
        return key.astype(dtype), value.astype(dtype)

    def apply_scale(self, x: jax.Array, scale: jax.Array | None, index: jax.Array) -> jax.Array:
        """Multiplies scores or weights [B K G t s] by the scale [B K S] of each key or value, if there is one."""
        if scale is None:
            return x
        return x * self.take(scale, index)[:, :, None, None]

    def masked_scores(self, query: jax.Array, key: jax.Array, position: jax.Array, index: jax.Array) -> jax.Array:
        """Returns scores [B K G t s] of queries [B K G t H] at positions [B t]. Masked ones are far below `MIN_LSE`."""
        dtype = jnp.promote_types(query.dtype, jnp.float32)
        scores = self.spec
        products = jnp.einsum("bkgth,bksh->bkgts", query, key, preferred_element_type=dtype)
        products = self.apply_scale(products, self.key_scale, index) * scores.scale
        if scores.softcap is not None:
            products = softcap(products, scores.softcap)
        at = self.start(index) + jnp.arange(self.size, dtype=jnp.int32)
        products = add_alibi(products, scores, self.slopes, position, at)
        mask = attention_mask(position, at, scores, self.lengths) & (at >= index * self.size)
        return jnp.where(mask[:, None, None], products, 10 * MIN_LSE)


def group_heads(query: jax.Array, kv_heads: int) -> jax.Array:
    """Groups the heads of queries [B t N ...] by the key-value head that they share, [B K G t ...]."""
    return jnp.moveaxis(query.reshape(*query.shape[:2], kv_heads, -1, *query.shape[3:]), 1, 3)


def ungroup_heads(x: jax.Array) -> jax.Array:
    """The inverse of `group_heads`, from [B K G t ...]."""
    batch, kv_heads, groups, length = x.shape[:4]
    return jnp.moveaxis(x, 3, 1).reshape(batch, length, kv_heads * groups, *x.shape[4:])


def split_blocks(x: jax.Array, size: int, **padding: Any) -> jax.Array:
    """Splits an array [B T ...] into blocks along T, padded to whole ones: [T/size B size ...]."""
    batch, length = x.shape[:2]
    count = -(-length // size)
    padded = jnp.pad(x, ((0, 0), (0, count * size - length)) + ((0, 0),) * (x.ndim - 2), **padding)
    return padded.reshape(batch, count, size, *x.shape[2:]).swapaxes(0, 1)


def join_blocks(blocks: jax.Array, length: int) -> jax.Array:
    """The inverse of `split_blocks`, without the padding."""
    x = blocks.swapaxes(0, 1)
    return x.reshape(len(x), -1, *x.shape[3:])[:, :length]
