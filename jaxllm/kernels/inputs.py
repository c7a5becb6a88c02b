"""What every attention kernel is given, and what in it a query sees."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxllm import config


@dataclass(frozen=True)
class Scores:
    """How scores are made from products, and which count: see `config.Attention`.

    `causal` hides keys behind a query's own position. Where there is no value, the first `value_dim` dimensions of a
    key are its value.
    """

    scale: float
    causal: bool = True
    window: int | None = None
    chunk: int | None = None
    softcap: float | None = None
    alibi: config.Alibi | None = None
    value_dim: int | None = None


class Inputs(NamedTuple):
    """Query [B T N H], key [B S K H] and value [B S K V], with N // K queries to a key, and what else there may be.

    Query t of row b stands at position `offsets[b] + t` (int32 [B]; t without them), key s at position s, and only
    the first `lengths[b]` keys of a row count (int32 [B]; all without them). A score in `sinks` [N] takes weight and
    gives nothing. Keys and values stored narrowly are to be multiplied by their scales, float32 [B S K]. `slopes`,
    float32 [N], are ALiBi's where these heads are not all of them.
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


class Mixed(NamedTuple):
    """What a kernel returns: values mixed for each query [B T N V], and the logarithms of what their weights were
    divided by [B T N], in float32 or wider.

    A query that sees nothing gets zeros, and a logarithm of at most `NOTHING`.
    """

    out: jax.Array
    lse: jax.Array


_FAR = 1 << 30  # behind all keys
NOTHING = -1e29  # a logarithm next to which any other weight counts; -inf would give gradients NaN


def combined(one: Mixed, other: Mixed) -> Mixed:
    """What queries make of two ranges of keys together, from what they made of each."""
    lse = jnp.logaddexp(one.lse, other.lse)
    weights = (jnp.exp(part.lse - lse)[..., None] for part in (one, other))
    out = sum(part.out.astype(lse.dtype) * weight for part, weight in zip((one, other), weights, strict=True))
    return Mixed(jnp.asarray(out, one.out.dtype), lse)


def wide(inputs: Inputs) -> jnp.dtype:
    """What scores and sums are computed in: float32, or float64 for float64."""
    return jnp.promote_types(inputs.query.dtype, jnp.float32)


def visible(position: jax.Array, key: jax.Array, scores: Scores, lengths: jax.Array | None = None) -> jax.Array:
    """Which keys [S], by their positions, queries at positions [B T] may see, bool [B T S]."""
    position = position[..., None]
    mask = key <= position if scores.causal else jnp.broadcast_to(True, (*position.shape[:2], len(key)))
    if scores.window is not None:
        mask &= key > position - scores.window
    if scores.chunk is not None:
        mask &= key // scores.chunk == position // scores.chunk
    return mask if lengths is None else mask & (key < lengths[:, None, None])


def seen(scores: Scores, position: jax.Array, length: Any) -> tuple[jax.Array, jax.Array]:
    """The first key that queries at positions [...] of rows of a length see, and the one after the last, int32 [...].

    What `visible` says in two numbers, of which none decreases with the position; no key where the first is no smaller.
    Both are made from the position: in a kernel, they lie in registers as it does.
    """
    first, end = jnp.zeros_like(position), jnp.minimum(position + (1 if scores.causal else _FAR), length)
    if scores.window is not None:
        first = jnp.maximum(first, position - (scores.window - 1))
    if scores.chunk is not None:
        size = position.dtype.type(scores.chunk)  # a Python number could be an int64 beside an int32
        start = jax.lax.div(position, size) * size
        start = jnp.where(start > position, start - size, start)  # division rounds to zero
        first, end = jnp.maximum(first, start), jnp.minimum(end, start + size)
    return first, end


def positions(inputs: Inputs) -> jax.Array:
    """Where the queries stand, int32 [B T]."""
    batch, length = inputs.query.shape[:2]
    offsets = jnp.zeros(batch, jnp.int32) if inputs.offsets is None else inputs.offsets
    return offsets[:, None] + jnp.arange(length, dtype=jnp.int32)


def softcap(x: jax.Array, cap: float) -> jax.Array:
    """x bounded smoothly to between -cap and cap (Bello et al. 2017)."""
    return jnp.tanh(x / cap) * cap


def slopes_of(inputs: Inputs, scores: Scores) -> jax.Array | None:
    """ALiBi's slopes of the heads that there are, float32 [N]."""
    if inputs.slopes is not None or scores.alibi is None:
        return inputs.slopes
    return jnp.asarray(scores.alibi.slopes, jnp.float32)


def with_alibi(
    products: jax.Array, scores: Scores, slopes: jax.Array | None, position: jax.Array, key: jax.Array
) -> jax.Array:
    """Scores [B K G T S] with ALiBi (Press et al. 2021), of queries at positions [B T] and keys at [S].

    What is added is zero for a query's own key: a constant for each query keeps the numbers small, and drops out.
    """
    if scores.alibi is None or slopes is None:
        return products
    slopes, position = slopes[:, None, None], position[:, None, :, None]
    if scores.alibi.bfloat16:
        round_ = partial(jax.lax.reduce_precision, exponent_bits=8, mantissa_bits=7)  # casts may be optimised away
        key, position = (round_(round_(slopes) * round_(at.astype(jnp.float32))) for at in (key, position))
        bias = (key - position) * scores.alibi.scale
    else:
        bias = slopes * (key - position) * scores.alibi.scale
    return products + bias.reshape(products.shape).astype(products.dtype)
