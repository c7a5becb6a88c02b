"""The position-wise feed-forward network, gated or not."""

from functools import partial

import jax
from flax import nnx

from jaxllm import config
from jaxllm.errors import InputError
from jaxllm.nn.linear import Linear
from jaxllm.nn.parameter import Init, builds
from jaxllm.sharding import constrain

ACTIVATIONS = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


@builds(config.FeedForward)
class FeedForward(nnx.Module):
    """[B T D] -> [B T D] through F hidden units; the gated form is Shazeer 2020."""

    def __init__(self, init: Init, part: config.FeedForward, dim: int):
        if part.activation not in ACTIVATIONS:
            raise InputError(f"config: activation {part.activation!r} is unknown; known: {', '.join(ACTIVATIONS)}")
        self.activation = part.activation
        embed, hidden = (("embed", dim),), (("hidden", part.hidden),)
        self.gate = Linear(init, hidden, embed, part.bias) if part.gated else None
        self.up = Linear(init, hidden, embed, part.bias)
        self.down = Linear(init, embed, hidden, part.bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        """The network at every position."""
        activate, up = ACTIVATIONS[self.activation], self.up(x)
        hidden = activate(up) if self.gate is None else activate(self.gate(x)) * up
        return self.down(constrain(hidden, "batch", "time", "hidden"))
