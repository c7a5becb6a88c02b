"""Attention with all scores written out: the oracle of every other kernel, exact in float64."""

import jax
import jax.numpy as jnp

from jaxllm.kernels.inputs import (
    NOTHING,
    Inputs,
    Mixed,
    Scores,
    positions,
    slopes_of,
    softcap,
    visible,
    wide,
    with_alibi,
)


def reference(inputs: Inputs, scores: Scores) -> Mixed:
    """Vaswani et al. 2017, with scores [B K G T S] and a softmax in float32 or wider."""
    batch, length, heads, head_dim = inputs.query.shape
    key = inputs.key.swapaxes(1, 2).astype(inputs.query.dtype)  # [B K S H]
    value = key[..., : scores.value_dim] if inputs.value is None else inputs.value.swapaxes(1, 2).astype(key.dtype)
    groups = inputs.query.reshape(batch, length, key.shape[1], -1, head_dim).transpose(0, 2, 3, 1, 4)  # [B K G T H]
    products = jnp.einsum("bkgth,bksh->bkgts", groups, key, preferred_element_type=wide(inputs))
    if inputs.key_scale is not None:
        products = products * _per_key(inputs.key_scale)
    products = products * scores.scale
    if scores.softcap is not None:
        products = softcap(products, scores.softcap)
    position, keys = positions(inputs), jnp.arange(key.shape[2], dtype=jnp.int32)
    products = with_alibi(products, scores, slopes_of(inputs, scores), position, keys)
    mask = visible(position, keys, scores, inputs.lengths)[:, None, None]
    products = jnp.where(mask, products, 10 * NOTHING)
    column = products[..., :0] if inputs.sinks is None else _column(inputs.sinks, products)
    lse = jax.nn.logsumexp(jnp.concatenate([products, column], axis=-1), axis=-1, keepdims=True)
    weights = jnp.where(mask, jnp.exp(products - lse), 0)
    if inputs.value_scale is not None:
        weights = weights * _per_key(inputs.value_scale)
    out = jnp.einsum("bkgts,bksv->bkgtv", weights.astype(key.dtype), value, preferred_element_type=wide(inputs))
    out = out.astype(key.dtype).transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, -1)
    lse = lse[..., 0].transpose(0, 3, 1, 2).reshape(batch, length, heads)
    return Mixed(out, lse)


def _per_key(scale: jax.Array) -> jax.Array:
    """Scales [B S K] as they multiply scores [B K G T S]."""
    return scale.swapaxes(1, 2)[:, :, None, None]


def _column(sinks: jax.Array, products: jax.Array) -> jax.Array:
    """Sinks [N] as one more key's scores [B K G T 1]."""
    grouped = sinks.reshape(*products.shape[1:3], 1, 1).astype(products.dtype)
    return jnp.broadcast_to(grouped, (*products.shape[:-1], 1))
