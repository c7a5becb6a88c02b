"""The position-wise feed-forward network, gated or not."""

from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm import config
from jaxllm.errors import InputError
from jaxllm.nn.linear import Linear
from jaxllm.nn.parameter import Init, builds
from jaxllm.sharding import constrain

ACTIVATIONS = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "silu": jax.nn.silu,
}


@builds(config.FeedForward)
class FeedForward(nnx.Module):
    """[B T D] -> [B T D] through F hidden units; the gated form is Shazeer 2020."""

    def __init__(self, init: Init, part: config.FeedForward, dim: int):
        self.activate = activation(part)
        embed, hidden = (("embed", dim),), (("hidden", part.hidden),)
        self.gate = Linear(init, hidden, embed, part.bias) if part.gated else None
        self.up = Linear(init, hidden, embed, part.bias)
        self.down = Linear(init, embed, hidden, part.bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        """The network at every position."""
        return self.down(self.hidden(x))

    def hidden(self, x: jax.Array) -> jax.Array:
        """The hidden units, [B T F]."""
        hidden = self.activate(None if self.gate is None else self.gate(x), self.up(x))
        return constrain(hidden, "batch", "time", "hidden")


@cache  # one function for equal parts: modules are compared by what they hold
def activation(part: config.FeedForward) -> Callable[..., jax.Array]:
    """What makes hidden units from the gate's output (None where there is no gate) and up's.

    Raises:
        InputError: no such activation.
    """
    if isinstance(part.activation, config.ClippedSwiglu):
        return partial(_clipped_swiglu, part.activation)
    if part.activation not in ACTIVATIONS:
        raise InputError(f"config: activation {part.activation!r} is unknown; known: {', '.join(ACTIVATIONS)}")
    return partial(_gated if part.gated else _plain, ACTIVATIONS[part.activation])


def _gated(act: Callable[[jax.Array], jax.Array], gate: jax.Array, up: jax.Array) -> jax.Array:
    return act(gate) * up


def _plain(act: Callable[[jax.Array], jax.Array], gate: None, up: jax.Array) -> jax.Array:
    return act(up)


def _clipped_swiglu(part: config.ClippedSwiglu, gate: jax.Array, up: jax.Array) -> jax.Array:
    gate, up = jnp.minimum(gate, part.limit), jnp.clip(up, -part.limit, part.limit)
    return (up + 1) * gate * jax.nn.sigmoid(gate * part.alpha)
