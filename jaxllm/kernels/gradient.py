"""The gradient of attention for all kernels: scores are recomputed block by block."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxllm.kernels.blocks import BlockSizes, KeyBlocks, group_heads, join_blocks, split_blocks, ungroup_heads
from jaxllm.kernels.spec import (
    MIN_LSE,
    AttentionInputs,
    AttentionOutput,
    AttentionSpec,
    accumulation_dtype,
    query_positions,
)

Sums = tuple[jax.Array, jax.Array]  # gradients by all keys [B K S H] and values [B K S V]


def attention_gradient(
    inputs: AttentionInputs,
    spec: AttentionSpec,
    output: AttentionOutput,
    cotangent: AttentionOutput,
    blocks: BlockSizes,
) -> AttentionInputs:
    """Returns the gradients by query, key, value and sinks (Dao et al. 2022, appendix B), given the output's cotangent.

    Raises:
      NotImplementedError: keys and values are quantized.
    """
    if inputs.key_scale is not None:
        raise NotImplementedError("keys and values: quantized, which have no gradient; use a cache of floats")
    keys = KeyBlocks.of(inputs, spec, blocks.keys)
    dtype = accumulation_dtype(inputs)
    length = inputs.query.shape[1]
    drift = (output.out.astype(dtype) * cotangent.out.astype(dtype)).sum(axis=-1) - cotangent.lse.astype(
        dtype
    )  # [B T N]
    size = min(blocks.queries, length)
    queries = (split_blocks(x, size) for x in (inputs.query, cotangent.out, drift))
    lse = jnp.where(output.lse > MIN_LSE, output.lse, -10 * MIN_LSE)  # a query without keys has weights of 0
    places = (
        split_blocks(lse, size, constant_values=-10 * MIN_LSE),
        split_blocks(query_positions(inputs), size, mode="edge"),
    )
    values = (*keys.key.shape[:3], keys.value_dim)
    sums = jnp.zeros(keys.key.shape, dtype), jnp.zeros(values, dtype)
    (by_key, by_value), by_query = jax.lax.scan(partial(_block, keys), sums, (*queries, *places))
    by_query = join_blocks(by_query, length)
    if inputs.value is None:
        by_key = by_key.at[..., : keys.value_dim].add(by_value)
        by_value = None
    else:
        by_value = by_value.astype(inputs.value.dtype)
    by_sinks = None
    if inputs.sinks is not None:
        taken = jnp.exp(inputs.sinks.astype(dtype) - lse)
        by_sinks = -(taken * drift).sum(axis=(0, 1)).astype(inputs.sinks.dtype)
    return AttentionInputs(
        by_query.astype(inputs.query.dtype), by_key.astype(inputs.key.dtype), by_value, sinks=by_sinks
    )


def _block(keys: KeyBlocks, sums: Sums, block: tuple[jax.Array, ...]) -> tuple[Sums, jax.Array]:
    """Adds the gradients of one block of queries to the sums; returns the gradient by its queries [B t N H]."""
    *of_queries, position = block
    query, outward, drift, lse = (group_heads(x, keys.heads) for x in of_queries)
    product = partial(jnp.einsum, preferred_element_type=lse.dtype)

    def step(index: jax.Array, carry: tuple[jax.Array, Sums]) -> tuple[jax.Array, Sums]:
        by_query, (by_key, by_value) = carry
        key, value = keys.block(index, query.dtype)
        scored, back = jax.vjp(lambda query, key: keys.masked_scores(query, key, position, index), query, key)
        weights = jnp.exp(scored - lse[..., None])
        query_part, key_part = back(weights * (product("bkgtv,bksv->bkgts", outward, value) - drift[..., None]))
        value_part = product("bkgts,bkgtv->bksv", weights.astype(query.dtype), outward)
        return by_query + query_part, (keys.add(by_key, key_part, index), keys.add(by_value, value_part, index))

    by_query, sums = jax.lax.fori_loop(*keys.range(position), step, (jnp.zeros(query.shape, lse.dtype), sums))
    return sums, ungroup_heads(by_query)
