"""Normalisation over the last dimensions, computed in float32 or wider."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import constant, zeros

from jaxllm import config
from jaxllm.nn.linear import Axes
from jaxllm.nn.parameter import Init, build, builds


def embed(dim: int) -> Axes:
    """The axes of a vector of the residual stream, which most norms are over."""
    return (("embed", dim),)


@builds(config.RMSNorm)
class RMSNorm(nnx.Module):
    """Zhang & Sennrich 2019, over the last `over` of the weight's axes (all by default).

    Rounded to the dtype of x before the weight, as in PyTorch, or after it where weights have an offset, as there.
    """

    def __init__(self, init: Init, part: config.RMSNorm, axes: Axes, over: int | None = None):
        names, sizes = zip(*axes, strict=True)
        self.part, self.over = part, over or len(axes)
        self.weight = init(sizes, names, constant(1.0 - part.offset))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x over its root mean square, times the weight."""
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        normal = wide * jax.lax.rsqrt(_mean(wide * wide, self.over) + self.part.eps)
        if self.part.offset:
            return (normal * (self.weight[...].astype(wide.dtype) + self.part.offset)).astype(x.dtype)
        return normal.astype(x.dtype) * self.weight[...]


@builds(config.LayerNorm)
class LayerNorm(nnx.Module):
    """Ba et al. 2016, over the last `over` of the weight's axes (all by default)."""

    def __init__(self, init: Init, part: config.LayerNorm, axes: Axes, over: int | None = None):
        names, sizes = zip(*axes, strict=True)
        self.eps, self.offset, self.over = part.eps, part.offset, over or len(axes)
        self.weight = init(sizes, names, constant(1.0 - part.offset)) if part.scale else None
        self.bias = init(sizes, names, zeros) if part.bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """x less its mean, over its standard deviation, times the weight, plus the bias."""
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        centred = wide - _mean(wide, self.over)
        y = centred * jax.lax.rsqrt(_mean(centred * centred, self.over) + self.eps)
        y = y if self.weight is None else y * (self.weight[...] + self.offset if self.offset else self.weight[...])
        return (y if self.bias is None else y + self.bias[...]).astype(x.dtype)


def head_norm(init: Init, part: config.HeadNorm, heads: Axes, head: Axes) -> Any:
    """The norm of queries or keys [... N H], over one head or all of them."""
    if part.over == "head":
        return build(init, part.norm, head)
    return build(init, part.norm, heads + head, 1 if part.over == "each head" else 2)


def _mean(x: jax.Array, dims: int) -> jax.Array:
    return jnp.mean(x, axis=tuple(range(-dims, 0)), keepdims=True)
