"""The one entry point to attention, the implementations behind it, and the choice between them."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxllm import config

BLOCK = 512  # queries at a time, where there are more


@dataclass(frozen=True)
class Scores:
    """How scores are made from products, and which count: see `config.Attention`."""

    scale: float
    window: int | None = None
    chunk: int | None = None
    softcap: float | None = None
    alibi: config.Alibi | None = None


class Inputs(NamedTuple):
    """Query [B T N H], key [B S K H], value [B S K V], the queries' offsets [B], and sinks [N] or None."""

    query: jax.Array
    key: jax.Array
    value: jax.Array
    offsets: jax.Array
    sinks: jax.Array | None


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    offsets: jax.Array,
    scores: Scores,
    sinks: jax.Array | None = None,
) -> jax.Array:
    """Causal attention of query [B T N H] on key [B S K H] and value [B S K V], N // K queries to a key; [B T N V].

    Query t of row b stands at position `offsets[b] + t`, key s at position s. A query sees keys up to its own
    position, less those that `scores` puts out of sight. Keys past a row's end are never seen, since every query of
    the row stands before them: rows of unequal length need no other mask.
    """
    name, _ = choose(query.shape[1])
    return _IMPLEMENTATIONS[name](Inputs(query, key, value, offsets, sinks), scores)


def choose(queries: int) -> tuple[str, str]:
    """Which implementation serves a call with that many queries, and why."""
    if queries <= BLOCK:
        return "reference", f"at most {BLOCK} queries: the scores fit, and nothing is simpler"
    return "blocked", f"more than {BLOCK} queries: so many at a time, and scores never grow with their square"


def reference(inputs: Inputs, scores: Scores) -> jax.Array:
    """With all scores written out; softmax in float32 or wider (Vaswani et al. 2017)."""
    query, key, value, offsets, sinks = inputs
    batch, length, heads, head_dim = query.shape
    groups = query.reshape(batch, length, key.shape[2], -1, head_dim)  # [B T K G H]
    wide = jnp.promote_types(query.dtype, jnp.float32)
    products = jnp.einsum("btkgh,bskh->bkgts", groups, key, preferred_element_type=wide) * scores.scale
    if scores.softcap is not None:
        products = softcap(products, scores.softcap)
    if scores.alibi is not None:
        bias = _alibi(scores.alibi, offsets, length, key.shape[1])
        products = products + bias.reshape(products.shape).astype(wide)
    mask = visible(offsets, length, key.shape[1], scores)[:, None, None]
    weights = _softmax(jnp.where(mask, products, jnp.finfo(wide).min), sinks).astype(query.dtype)
    out = jnp.einsum("bkgts,bskv->btkgv", weights, value, preferred_element_type=wide)
    return out.astype(query.dtype).reshape(batch, length, heads, value.shape[-1])


def blocked(inputs: Inputs, scores: Scores) -> jax.Array:
    """The reference on one block of queries after another; scores are recomputed for a gradient, never kept."""
    batch, length, heads, head_dim = inputs.query.shape
    count = -(-length // BLOCK)
    padded = jnp.pad(inputs.query, ((0, 0), (0, count * BLOCK - length), (0, 0), (0, 0)))
    blocks = padded.reshape(batch, count, BLOCK, heads, head_dim).swapaxes(0, 1)

    @jax.checkpoint
    def one(block_and_start):
        block, start = block_and_start
        return reference(inputs._replace(query=block, offsets=inputs.offsets + start), scores)

    out = jax.lax.map(one, (blocks, jnp.arange(count, dtype=jnp.int32) * BLOCK))
    return out.swapaxes(0, 1).reshape(batch, count * BLOCK, heads, -1)[:, :length]


def visible(offsets: jax.Array, queries: int, keys: int, scores: Scores) -> jax.Array:
    """Which key each query may see, bool [B T S]."""
    position = (offsets[:, None] + jnp.arange(queries))[..., None]
    key = jnp.arange(keys)
    mask = key <= position
    if scores.window is not None:
        mask &= key > position - scores.window
    if scores.chunk is not None:
        mask &= key // scores.chunk == position // scores.chunk
    return mask


def softcap(x: jax.Array, cap: float) -> jax.Array:
    """x bounded smoothly to between -cap and cap (Bello et al. 2017)."""
    return jnp.tanh(x / cap) * cap


def _softmax(products: jax.Array, sinks: jax.Array | None) -> jax.Array:
    """Weights [B K G T S]; a sink [N] takes part in the sum, and its own weight is dropped.

    Hidden scores are the lowest number, not -inf: padded queries that see no key must not give gradients NaN.
    """
    if sinks is None:
        return jax.nn.softmax(products, axis=-1)
    _, kv_heads, groups, _, _ = products.shape
    column = jnp.broadcast_to(sinks.reshape(kv_heads, groups, 1, 1).astype(products.dtype), (*products.shape[:-1], 1))
    return jax.nn.softmax(jnp.concatenate([products, column], axis=-1), axis=-1)[..., :-1]


def _alibi(part: config.Alibi, offsets: jax.Array, queries: int, keys: int) -> jax.Array:
    """What is added to the scores, float32 [B N T S]; a constant for each query keeps the numbers small."""
    slopes = jnp.asarray(part.slopes, jnp.float32)[:, None, None]
    position, key = (offsets[:, None] + jnp.arange(queries))[:, None, :, None], jnp.arange(keys)
    if not part.bfloat16:
        return slopes * (key - position) * part.scale
    round_ = partial(jax.lax.reduce_precision, exponent_bits=8, mantissa_bits=7)  # casts may be optimised away
    key, position = (round_(round_(slopes) * round_(at.astype(jnp.float32))) for at in (key, position))
    return (key - position) * part.scale


_IMPLEMENTATIONS = {"reference": reference, "blocked": blocked}
