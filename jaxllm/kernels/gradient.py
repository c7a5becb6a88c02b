"""The gradient of attention, whichever kernel made the result: scores are recomputed, block by block."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxllm.kernels.blocks import Blocks, Keys, cut, grouped, joined, uncut
from jaxllm.kernels.inputs import NOTHING, Inputs, Mixed, Scores, positions, wide

Sums = tuple[jax.Array, jax.Array]  # gradients by all keys [B K S H] and values [B K S V]


def gradient(inputs: Inputs, scores: Scores, made: Mixed, wanted: Mixed, blocks: Blocks) -> Inputs:
    """What `wanted`, the gradient by a result, comes to by query, key, value and sinks (Dao et al. 2022, appendix B).

    Raises:
        NotImplementedError: keys and values are stored narrowly.
    """
    if inputs.key_scale is not None:
        raise NotImplementedError("no gradient goes through a quantised cache")
    keys, dtype, length = Keys.of(inputs, scores, blocks.keys), wide(inputs), inputs.query.shape[1]
    drift = (made.out.astype(dtype) * wanted.out.astype(dtype)).sum(axis=-1) - wanted.lse.astype(dtype)  # [B T N]
    size = min(blocks.queries, length)
    queries = (cut(x, size) for x in (inputs.query, wanted.out, drift))
    lse = jnp.where(made.lse > NOTHING, made.lse, -10 * NOTHING)  # who saw nothing has weights of 0
    places = cut(lse, size, constant_values=-10 * NOTHING), cut(positions(inputs), size, mode="edge")
    values = (*keys.key.shape[:3], keys.value_dim)
    sums = jnp.zeros(keys.key.shape, dtype), jnp.zeros(values, dtype)
    (by_key, by_value), by_query = jax.lax.scan(partial(_block, keys), sums, (*queries, *places))
    if inputs.value is None:
        by_key, by_value = by_key.at[..., : keys.value_dim].add(by_value), None
    else:
        by_value = by_value.swapaxes(1, 2).astype(inputs.value.dtype)
    by_query, by_key = uncut(by_query, length), by_key.swapaxes(1, 2)
    by_sinks = None
    if inputs.sinks is not None:
        taken = jnp.exp(inputs.sinks.astype(dtype) - lse)
        by_sinks = -(taken * drift).sum(axis=(0, 1)).astype(inputs.sinks.dtype)
    return Inputs(by_query.astype(inputs.query.dtype), by_key.astype(inputs.key.dtype), by_value, sinks=by_sinks)


def _block(keys: Keys, sums: Sums, block: tuple[jax.Array, ...]) -> tuple[Sums, jax.Array]:
    """One block of queries: what it adds to the sums, and the gradient by its queries [B t N H]."""
    *of_queries, position = block
    query, outward, drift, lse = (grouped(x, keys.heads) for x in of_queries)
    product = partial(jnp.einsum, preferred_element_type=lse.dtype)

    def step(index: jax.Array, carry: tuple[jax.Array, Sums]) -> tuple[jax.Array, Sums]:
        by_query, (by_key, by_value) = carry
        key, value = keys.block(index, query.dtype)
        scored, back = jax.vjp(lambda query, key: keys.scored(query, key, position, index), query, key)
        weights = jnp.exp(scored - lse[..., None])
        query_part, key_part = back(weights * (product("bkgtv,bksv->bkgts", outward, value) - drift[..., None]))
        value_part = product("bkgts,bkgtv->bksv", weights.astype(query.dtype), outward)
        return by_query + query_part, (keys.add(by_key, key_part, index), keys.add(by_value, value_part, index))

    by_query, sums = jax.lax.fori_loop(*keys.range(position), step, (jnp.zeros(query.shape, lse.dtype), sums))
    return sums, joined(by_query)
