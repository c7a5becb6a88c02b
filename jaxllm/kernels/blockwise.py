"""Attention in memory linear in the length, by XLA alone: an online softmax over blocks of keys.

Milakov & Gimelshein 2018; Rabe & Staats 2021; Dao et al. 2022. Blocks of keys that no query of a block attends to are
not read. The cost is therefore proportional to the width of a window, and that of a decode step to the filled part of
the cache.
"""

import jax
import jax.numpy as jnp

from jaxllm.kernels.blocks import BlockSizes, KeyBlocks, group_heads, join_blocks, split_blocks, ungroup_heads
from jaxllm.kernels.spec import MIN_LSE, AttentionInputs, AttentionOutput, AttentionSpec, query_positions

BLOCKS = BlockSizes()


def blockwise(inputs: AttentionInputs, spec: AttentionSpec, blocks: BlockSizes = BLOCKS) -> AttentionOutput:
    """Computes attention with the scores [B N t s] of one block of queries and one block of keys at a time."""
    keys = KeyBlocks.of(inputs, spec, blocks.keys)
    length = inputs.query.shape[1]

    def one(block: tuple[jax.Array, jax.Array]) -> AttentionOutput:
        return _online(*block, inputs.sinks, keys)

    if length <= blocks.queries:
        return one((inputs.query, query_positions(inputs)))
    queries = (
        split_blocks(inputs.query, blocks.queries),
        split_blocks(query_positions(inputs), blocks.queries, mode="edge"),
    )
    return jax.tree.map(lambda x: join_blocks(x, length), jax.lax.map(one, queries))


def _online(query: jax.Array, position: jax.Array, sinks: jax.Array | None, keys: KeyBlocks) -> AttentionOutput:
    """Computes the softmax of queries [B t N H] at positions [B t] over blocks of keys, with a running sum."""
    query, dtype = group_heads(query, keys.heads), jnp.promote_types(query.dtype, jnp.float32)
    largest = jnp.full(query.shape[:4], MIN_LSE, dtype)
    if sinks is not None:
        largest = jnp.maximum(largest, sinks.astype(dtype).reshape(keys.heads, -1, 1))

    def step(index: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        largest, total, mixed = carry
        key, value = keys.block(index, query.dtype)
        scored = keys.masked_scores(query, key, position, index)
        new = jnp.maximum(largest, scored.max(axis=-1))
        weights = jnp.exp(scored - new[..., None])
        kept = jnp.exp(largest - new)
        total = total * kept + weights.sum(axis=-1)
        weights = keys.apply_scale(weights, keys.value_scale, index).astype(query.dtype)
        added = jnp.einsum("bkgts,bksv->bkgtv", weights, value, preferred_element_type=dtype)
        return new, total, mixed * kept[..., None] + added

    total = jnp.full_like(largest, 0 if sinks is None else 1)
    mixed = jnp.zeros((*largest.shape, keys.value_dim), dtype)
    largest, total, mixed = jax.lax.fori_loop(*keys.range(position), step, (largest, total, mixed))
    seen = total > 0
    total = jnp.where(total > 0, total, 1)
    lse = jnp.where(seen, largest + jnp.log(total), 10 * MIN_LSE)
    return AttentionOutput(ungroup_heads((mixed / total[..., None]).astype(query.dtype)), ungroup_heads(lse))
