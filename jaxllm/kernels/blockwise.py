"""Attention in memory linear in its length, by XLA alone: an online softmax over blocks of keys.

Milakov & Gimelshein 2018; Rabe & Staats 2021; Dao et al. 2022. Blocks of keys that no query of a block may see are
never read, so that a window costs its width, and a step of decoding what the cache is filled with.
"""

import jax
import jax.numpy as jnp

from jaxllm.kernels.blocks import Blocks, Keys, cut, grouped, joined, uncut
from jaxllm.kernels.inputs import NOTHING, Inputs, Mixed, Scores, positions

BLOCKS = Blocks()


def blockwise(inputs: Inputs, scores: Scores, blocks: Blocks = BLOCKS) -> Mixed:
    """Attention with scores [B N t s] of one block of queries and one of keys at a time."""
    keys, length = Keys.of(inputs, scores, blocks.keys), inputs.query.shape[1]

    def one(block: tuple[jax.Array, jax.Array]) -> Mixed:
        return _online(*block, inputs.sinks, keys)

    if length <= blocks.queries:
        return one((inputs.query, positions(inputs)))
    queries = cut(inputs.query, blocks.queries), cut(positions(inputs), blocks.queries, mode="edge")
    return jax.tree.map(lambda x: uncut(x, length), jax.lax.map(one, queries))


def _online(query: jax.Array, position: jax.Array, sinks: jax.Array | None, keys: Keys) -> Mixed:
    """Softmax over blocks of keys with a running maximum and sum, for queries [B t N H] at positions [B t]."""
    query, dtype = grouped(query, keys.heads), jnp.promote_types(query.dtype, jnp.float32)
    largest = jnp.full(query.shape[:4], NOTHING, dtype)
    if sinks is not None:
        largest = jnp.maximum(largest, sinks.astype(dtype).reshape(keys.heads, -1, 1))

    def step(index: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        largest, total, mixed = carry
        key, value = keys.block(index, query.dtype)
        scored = keys.scored(query, key, position, index)
        new = jnp.maximum(largest, scored.max(axis=-1))
        weights, kept = jnp.exp(scored - new[..., None]), jnp.exp(largest - new)
        total = total * kept + weights.sum(axis=-1)
        weights = keys.scaled(weights, keys.value_scale, index).astype(query.dtype)
        added = jnp.einsum("bkgts,bksv->bkgtv", weights, value, preferred_element_type=dtype)
        return new, total, mixed * kept[..., None] + added

    total = jnp.full_like(largest, 0 if sinks is None else 1)
    mixed = jnp.zeros((*largest.shape, keys.value_dim), dtype)
    largest, total, mixed = jax.lax.fori_loop(*keys.range(position), step, (largest, total, mixed))
    seen, total = total > 0, jnp.where(total > 0, total, 1)
    lse = jnp.where(seen, largest + jnp.log(total), 10 * NOTHING)
    return Mixed(joined((mixed / total[..., None]).astype(query.dtype)), joined(lse))
