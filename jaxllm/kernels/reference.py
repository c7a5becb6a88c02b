"""Attention with all scores in memory: the reference for every other kernel, exact in float64."""

import jax
import jax.numpy as jnp

from jaxllm.kernels.spec import (
    MIN_LSE,
    AttentionInputs,
    AttentionOutput,
    AttentionSpec,
    accumulation_dtype,
    add_alibi,
    alibi_slopes,
    attention_mask,
    query_positions,
    softcap,
)


def reference(inputs: AttentionInputs, spec: AttentionSpec) -> AttentionOutput:
    """Computes attention (Vaswani et al. 2017) with scores [B K G T S] and a softmax in float32 or wider."""
    batch, length, heads, head_dim = inputs.query.shape
    key = inputs.key.astype(inputs.query.dtype)
    if inputs.value is None:
        value = key[..., : spec.value_dim]
    else:
        value = inputs.value.astype(key.dtype)
    groups = inputs.query.reshape(batch, length, key.shape[1], -1, head_dim).transpose(0, 2, 3, 1, 4)  # [B K G T H]
    products = jnp.einsum("bkgth,bksh->bkgts", groups, key, preferred_element_type=accumulation_dtype(inputs))
    if inputs.key_scale is not None:
        products = products * _per_key(inputs.key_scale)
    products = products * spec.scale
    if spec.softcap is not None:
        products = softcap(products, spec.softcap)
    position = query_positions(inputs)
    keys = jnp.arange(key.shape[2], dtype=jnp.int32)
    products = add_alibi(products, spec, alibi_slopes(inputs, spec), position, keys)
    mask = attention_mask(position, keys, spec, inputs.lengths)[:, None, None]
    products = jnp.where(mask, products, 10 * MIN_LSE)
    if inputs.sinks is None:
        column = products[..., :0]
    else:
        column = _column(inputs.sinks, products)
    lse = jax.nn.logsumexp(jnp.concatenate([products, column], axis=-1), axis=-1, keepdims=True)
    weights = jnp.where(mask, jnp.exp(products - lse), 0)
    if inputs.value_scale is not None:
        weights = weights * _per_key(inputs.value_scale)
    out = jnp.einsum(
        "bkgts,bksv->bkgtv", weights.astype(key.dtype), value, preferred_element_type=accumulation_dtype(inputs)
    )
    out = out.astype(key.dtype).transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, -1)
    lse = lse[..., 0].transpose(0, 3, 1, 2).reshape(batch, length, heads)
    return AttentionOutput(out, lse)


def _per_key(scale: jax.Array) -> jax.Array:
    """Returns scales [B K S] in a shape that multiplies scores [B K G T S]."""
    return scale[:, :, None, None]


def _column(sinks: jax.Array, products: jax.Array) -> jax.Array:
    """Returns sinks [N] as the scores of one more key, [B K G T 1]."""
    grouped = sinks.reshape(*products.shape[1:3], 1, 1).astype(products.dtype)
    return jnp.broadcast_to(grouped, (*products.shape[:-1], 1))
