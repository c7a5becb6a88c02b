"""Normalization over the last dimensions, computed in float32 or wider."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import constant, zeros

from jaxllm.config import LayerNormConfig, QKNormConfig, RMSNormConfig
from jaxllm.nn.linear import Axes
from jaxllm.nn.parameter import ParameterFactory, build, register_module


def embed_axes(dim: int) -> Axes:
    """Returns the axes of a vector of the residual stream, [D]."""
    return (("embed", dim),)


@register_module(RMSNormConfig)
class RMSNorm(nnx.Module):
    """Root mean square normalization (Zhang & Sennrich 2019), over the last `dims` of the weight's dimensions.

    As in PyTorch, the normalized values are rounded to the dtype of x before they are multiplied by the weight, or
    after it if the config has an offset.
    """

    def __init__(self, init: ParameterFactory, config: RMSNormConfig, axes: Axes, dims: int | None = None):
        names, sizes = zip(*axes, strict=True)
        self.config = config
        self.dims = dims or len(axes)
        self.weight = init(sizes, names, constant(1.0 - config.offset))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns x divided by its root mean square, times the weight."""
        wide = _to_float32(x)
        normalized = wide * jax.lax.rsqrt(_mean(wide * wide, self.dims) + self.config.eps)
        if self.config.offset:
            return (normalized * (self.weight[...].astype(wide.dtype) + self.config.offset)).astype(x.dtype)
        return normalized.astype(x.dtype) * self.weight[...]


@register_module(LayerNormConfig)
class LayerNorm(nnx.Module):
    """Layer normalization (Ba et al. 2016), over the last `dims` of the weight's dimensions."""

    def __init__(self, init: ParameterFactory, config: LayerNormConfig, axes: Axes, dims: int | None = None):
        names, sizes = zip(*axes, strict=True)
        self.config = config
        self.dims = dims or len(axes)
        self.weight = init(sizes, names, constant(1.0 - config.offset)) if config.scale else None
        self.bias = init(sizes, names, zeros) if config.bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns x minus its mean, divided by its standard deviation, times the weight, plus the bias."""
        wide = _to_float32(x)
        centered = wide - _mean(wide, self.dims)
        y = centered * jax.lax.rsqrt(_mean(centered * centered, self.dims) + self.config.eps)
        if self.weight is not None and self.config.offset:
            y = y * (self.weight[...] + self.config.offset)
        elif self.weight is not None:
            y = y * self.weight[...]
        if self.bias is not None:
            y = y + self.bias[...]
        return y.astype(x.dtype)


def apply_norm(norm: Any, x: jax.Array) -> jax.Array:
    """Returns x, normalized unless the norm is None."""
    if norm is None:
        return x
    return norm(x)


def build_qk_norm(init: ParameterFactory, config: QKNormConfig | None, heads: Axes, head: Axes) -> Any:
    """Builds the norm of queries or keys [... N H]; None if the config is None."""
    if config is None:
        return None
    if config.over == "head":
        return build(init, config.norm, head)
    if config.over == "each head":
        return build(init, config.norm, heads + head, 1)
    return build(init, config.norm, heads + head, 2)


def _to_float32(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _mean(x: jax.Array, dims: int) -> jax.Array:
    return jnp.mean(x, axis=tuple(range(-dims, 0)), keepdims=True)
