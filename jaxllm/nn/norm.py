"""Normalisation over the last dimension, computed in float32 or wider."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import ones, zeros

from jaxllm import config
from jaxllm.nn.parameter import Init, builds


@builds(config.RMSNorm)
class RMSNorm(nnx.Module):
    """Zhang & Sennrich 2019, [... D] -> [... D]; rounded to the dtype of x before the weight, as in PyTorch."""

    def __init__(self, init: Init, part: config.RMSNorm, dim: int):
        self.eps = part.eps
        self.weight = init((dim,), ("embed",), ones)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x over its root mean square, times the weight."""
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        scale = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        return (wide * scale).astype(x.dtype) * self.weight[...]


@builds(config.LayerNorm)
class LayerNorm(nnx.Module):
    """Ba et al. 2016, [... D] -> [... D]."""

    def __init__(self, init: Init, part: config.LayerNorm, dim: int):
        self.eps = part.eps
        self.weight = init((dim,), ("embed",), ones)
        self.bias = init((dim,), ("embed",), zeros)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x less its mean, over its standard deviation, times the weight, plus the bias."""
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        scale = jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + self.eps)
        return (centred * scale * self.weight[...] + self.bias[...]).astype(x.dtype)
