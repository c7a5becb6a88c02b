"""The affine map, on weights in PyTorch's order: output dimensions first, contraction last."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import zeros

from jaxllm.nn.parameter import Init

Axes = tuple[tuple[str, int], ...]


def linear(x: jax.Array, weight: jax.Array, dims: int = 1) -> jax.Array:
    """x [... in] times weight [out in], `in` being the last `dims` dimensions of both; float32 or wider.

    The products are accumulated and returned in float32 even for narrower inputs: more exact, and on CPUs it is
    what selects the fast bfloat16 instructions.
    """
    contracted = tuple(range(x.ndim - dims, x.ndim)), tuple(range(weight.ndim - dims, weight.ndim))
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return jax.lax.dot_general(x, weight, (contracted, ((), ())), preferred_element_type=wide)


class Linear(nnx.Module):
    """y = W x + b for inputs [... *inputs] and outputs [... *outputs], either of one or more named dimensions."""

    def __init__(self, init: Init, outputs: Axes, inputs: Axes, bias: bool = False):
        names, sizes = zip(*outputs, *inputs, strict=True)
        self.dims = len(inputs)
        self.weight = init(sizes, names)
        self.bias = init(sizes[: len(outputs)], names[: len(outputs)], zeros) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """The map, in the dtype of x."""
        return self.wide(x).astype(x.dtype)

    def wide(self, x: jax.Array) -> jax.Array:
        """The map, in float32 or wider."""
        y = linear(x, self.weight[...], self.dims)
        return y if self.bias is None else y + self.bias[...]
