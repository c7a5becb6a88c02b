"""The arguments and results of attention kernels, and which keys a query attends to."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxllm.config import ALiBiConfig


@dataclass(frozen=True)
class AttentionSpec:
    """How scores are computed and masked; see `AttentionConfig`.

    Attributes:
      scale: factor of the products of queries and keys.
      causal: whether a query attends to no key behind its own position.
      window: number of last keys that a query attends to.
      chunk: number of positions of a chunk; a query attends to keys of its own chunk.
      softcap: bound of the scores, applied by a tanh.
      alibi: ALiBi biases.
      value_dim: if values are None, the first `value_dim` dimensions of a key are its value.
    """

    scale: float
    causal: bool = True
    window: int | None = None
    chunk: int | None = None
    softcap: float | None = None
    alibi: ALiBiConfig | None = None
    value_dim: int | None = None


class AttentionInputs(NamedTuple):
    """The arrays of an attention call, with N // K query heads per key-value head.

    Attributes:
      query: [B T N H].
      key: [B K S H]. Key s is at position s.
      value: [B K S V]; None if values are part of the keys.
      offsets: position of each row's first query, int32 [B]; 0 by default.
      lengths: number of valid keys of each row, int32 [B]; S by default.
      sinks: score of each head's attention sink, [N].
      key_scale: scale of quantized keys, float32 [B K S].
      value_scale: scale of quantized values, float32 [B K S].
      slopes: ALiBi slopes of these heads, float32 [N], if they are not all heads of the spec.
    """

    query: jax.Array
    key: jax.Array
    value: jax.Array | None = None
    offsets: jax.Array | None = None
    lengths: jax.Array | None = None
    sinks: jax.Array | None = None
    key_scale: jax.Array | None = None
    value_scale: jax.Array | None = None
    slopes: jax.Array | None = None

    def offsets_or_zeros(self) -> jax.Array:
        """Returns the position of each row's first query, int32 [B]."""
        if self.offsets is None:
            return jnp.zeros(self.query.shape[0], jnp.int32)
        return self.offsets

    def lengths_or_all(self) -> jax.Array:
        """Returns the number of valid keys of each row, int32 [B]."""
        if self.lengths is None:
            return jnp.full(self.query.shape[0], self.key.shape[2], jnp.int32)
        return self.lengths


class AttentionOutput(NamedTuple):
    """The result of an attention kernel. A query without keys has zeros, and a log-sum-exp of at most `MIN_LSE`.

    Attributes:
      out: weighted sum of the values, [B T N V].
      lse: log-sum-exp of the scores, float32 or wider [B T N].
    """

    out: jax.Array
    lse: jax.Array


_FAR = 1 << 30  # beyond all keys
MIN_LSE = -1e29  # negligible next to any log-sum-exp; -inf would make gradients NaN


def merge_partials(one: AttentionOutput, other: AttentionOutput) -> AttentionOutput:
    """Merges the outputs of the same queries for two ranges of keys."""
    lse = jnp.logaddexp(one.lse, other.lse)
    weights = (jnp.exp(part.lse - lse)[..., None] for part in (one, other))
    out = sum(part.out.astype(lse.dtype) * weight for part, weight in zip((one, other), weights, strict=True))
    return AttentionOutput(jnp.asarray(out, one.out.dtype), lse)


def accumulation_dtype(inputs: AttentionInputs) -> jnp.dtype:
    """Returns the dtype of scores and sums: float32, or float64 for float64 inputs."""
    return jnp.promote_types(inputs.query.dtype, jnp.float32)


def attention_mask(
    position: jax.Array, key: jax.Array, spec: AttentionSpec, lengths: jax.Array | None = None
) -> jax.Array:
    """Returns which keys, by their positions [S], queries at positions [B T] attend to, bool [B T S]."""
    position = position[..., None]
    if spec.causal:
        mask = key <= position
    else:
        mask = jnp.broadcast_to(True, (*position.shape[:2], len(key)))
    if spec.window is not None:
        mask &= key > position - spec.window
    if spec.chunk is not None:
        mask &= key // spec.chunk == position // spec.chunk
    if lengths is None:
        return mask
    return mask & (key < lengths[:, None, None])


def kv_range(spec: AttentionSpec, position: jax.Array, length: Any) -> tuple[jax.Array, jax.Array]:
    """Returns the first key that queries at positions [...] attend to, and the one after the last, int32 [...].

    This is `attention_mask` as a range. Neither bound decreases with the position; the range is empty if the first is
    not smaller. Both are computed from the position: inside a kernel they then have its layout.
    """
    first = jnp.zeros_like(position)
    end = jnp.minimum(position + (1 if spec.causal else _FAR), length)
    if spec.window is not None:
        first = jnp.maximum(first, position - (spec.window - 1))
    if spec.chunk is not None:
        size = position.dtype.type(spec.chunk)  # a Python number could be an int64 beside an int32
        start = jax.lax.div(position, size) * size
        start = jnp.where(start > position, start - size, start)  # division rounds to zero
        first = jnp.maximum(first, start)
        end = jnp.minimum(end, start + size)
    return first, end


def query_positions(inputs: AttentionInputs) -> jax.Array:
    """Returns the positions of the queries, int32 [B T]."""
    return inputs.offsets_or_zeros()[:, None] + jnp.arange(inputs.query.shape[1], dtype=jnp.int32)


def softcap(x: jax.Array, cap: float) -> jax.Array:
    """Bounds x smoothly to between -cap and cap (Bello et al. 2017)."""
    return jnp.tanh(x / cap) * cap


def alibi_slopes(inputs: AttentionInputs, spec: AttentionSpec) -> jax.Array | None:
    """Returns the ALiBi slopes of the call's heads, float32 [N]; None without ALiBi."""
    if inputs.slopes is not None or spec.alibi is None:
        return inputs.slopes
    return jnp.asarray(spec.alibi.slopes, jnp.float32)


def add_alibi(
    products: jax.Array, spec: AttentionSpec, slopes: jax.Array | None, position: jax.Array, key: jax.Array
) -> jax.Array:
    """Adds ALiBi biases (Press et al. 2021) to scores [B K G T S] of queries at positions [B T] and keys at [S].

    The bias of a query's own key is zero. This shifts each query's scores by a constant, which the softmax removes, and
    keeps the numbers small.
    """
    if spec.alibi is None or slopes is None:
        return products
    slopes = slopes[:, None, None]
    position = position[:, None, :, None]
    if spec.alibi.bfloat16:
        round_ = partial(jax.lax.reduce_precision, exponent_bits=8, mantissa_bits=7)  # the compiler may remove casts
        key, position = (round_(round_(slopes) * round_(at.astype(jnp.float32))) for at in (key, position))
        bias = (key - position) * spec.alibi.scale
    else:
        bias = slopes * (key - position) * spec.alibi.scale
    return products + bias.reshape(products.shape).astype(products.dtype)
