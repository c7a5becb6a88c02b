"""The position-wise feed-forward network, gated or not."""

from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm.config import ClippedSwiGLUConfig, FeedForwardConfig
from jaxllm.errors import InputError
from jaxllm.nn.linear import Linear, linear
from jaxllm.nn.parameter import ParameterFactory, register_module
from jaxllm.sharding import constrain

ACTIVATIONS = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "silu": jax.nn.silu,
}


@register_module(FeedForwardConfig)
class FeedForward(nnx.Module):
    """Maps [B T D] to [B T D] through F hidden units, gated (Shazeer 2020) or not."""

    def __init__(self, init: ParameterFactory, config: FeedForwardConfig, dim: int):
        self.activation = activation(config)
        embed = (("embed", dim),)
        hidden = (("hidden", config.hidden),)
        self.gate = Linear(init, hidden, embed, config.bias) if config.gated else None
        self.up = Linear(init, hidden, embed, config.bias)
        self.down = Linear(init, embed, hidden, config.bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the output [B T D]."""
        return self.down(self._hidden(x))

    def partial_sum(self, x: jax.Array, add_bias: jax.Array | bool) -> jax.Array:
        """Returns what a shard of the hidden units contributes to the output [B T D], in float32 or wider.

        Args:
          x: [B T D].
          add_bias: whether this shard adds the output's bias; exactly one of them must.
        """
        y = linear(self._hidden(x), self.down.weight[...])
        if self.down.bias is None:
            return y
        return y + jnp.where(add_bias, self.down.bias[...], 0)

    def _hidden(self, x: jax.Array) -> jax.Array:
        """Returns the hidden units [B T F]."""
        gate = None
        if self.gate is not None:
            gate = self.gate(x)
        return constrain(self.activation(gate, self.up(x)), "batch", "time", "hidden")


@cache  # modules are compared by what they hold: equal configs must give the same function
def activation(config: FeedForwardConfig) -> Callable[..., jax.Array]:
    """Returns the function of a gate's output (None without a gate) and `up`'s output that gives the hidden units.

    Raises:
      InputError: the activation is unknown.
    """
    if isinstance(config.activation, ClippedSwiGLUConfig):
        return partial(_clipped_swiglu, config.activation)
    if config.activation not in ACTIVATIONS:
        raise InputError(f"config: activation {config.activation!r} is unknown; known: {', '.join(ACTIVATIONS)}")
    if config.gated:
        return partial(_gated, ACTIVATIONS[config.activation])
    return partial(_ungated, ACTIVATIONS[config.activation])


def _gated(function: Callable[[jax.Array], jax.Array], gate: jax.Array, up: jax.Array) -> jax.Array:
    return function(gate) * up


def _ungated(function: Callable[[jax.Array], jax.Array], gate: None, up: jax.Array) -> jax.Array:
    return function(up)


def _clipped_swiglu(config: ClippedSwiGLUConfig, gate: jax.Array, up: jax.Array) -> jax.Array:
    gate = jnp.minimum(gate, config.limit)
    up = jnp.clip(up, -config.limit, config.limit)
    return (up + 1) * gate * jax.nn.sigmoid(gate * config.alpha)
