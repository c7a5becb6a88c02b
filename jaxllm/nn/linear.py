"""Linear maps, with weights in PyTorch's order: output dimensions first, contracted dimensions last."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import zeros

from jaxllm.nn.parameter import ParameterFactory

Axes = tuple[tuple[str, int], ...]  # logical name and size of each dimension


def linear(x: jax.Array, weight: jax.Array, dims: int = 1) -> jax.Array:
    """Multiplies x [... in] by a weight [out in] and returns [... out] in float32 or wider.

    The last `dims` dimensions of both are contracted. Products are accumulated in float32 even for narrower inputs:
    this is more exact, and on CPUs it selects the fast bfloat16 instructions.
    """
    x_dims = tuple(range(x.ndim - dims, x.ndim))
    weight_dims = tuple(range(weight.ndim - dims, weight.ndim))
    accumulated = jnp.promote_types(x.dtype, jnp.float32)
    return jax.lax.dot_general(x, weight, ((x_dims, weight_dims), ((), ())), preferred_element_type=accumulated)


def linear_per_head(x: jax.Array, weight: jax.Array) -> jax.Array:
    """Multiplies each head of x [B T N in] by its own weight [N out in]; returns [B T N out], float32 or wider."""
    accumulated = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.einsum("btni,noi->btno", x, weight, preferred_element_type=accumulated)


def linear_per_head_transposed(x: jax.Array, weight: jax.Array) -> jax.Array:
    """Multiplies each head of x [B T N out] by the transpose of its weight [N out in]; returns [B T N in].

    The result has the dtype of x: XLA's CPU backend has no such product from bfloat16 to float32.
    """
    return jnp.einsum("btno,noi->btni", x, weight)


class Linear(nnx.Module):
    """Computes y = W x + b for inputs [... *inputs] and outputs [... *outputs], each of one or more dimensions."""

    def __init__(self, init: ParameterFactory, outputs: Axes, inputs: Axes, bias: bool = False):
        names, sizes = zip(*outputs, *inputs, strict=True)
        self.dims = len(inputs)
        self.weight = init(sizes, names, row_dims=len(inputs))
        self.bias = init(sizes[: len(outputs)], names[: len(outputs)], zeros) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the result in the dtype of x."""
        return self.accumulated(x).astype(x.dtype)

    def accumulated(self, x: jax.Array) -> jax.Array:
        """Returns the result in float32 or wider."""
        y = linear(x, self.weight[...], self.dims)
        if self.bias is None:
            return y
        return y + self.bias[...]
