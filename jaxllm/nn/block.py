"""Layers: how attention and feed-forward are joined to the residual stream."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm import config
from jaxllm.cache import Full
from jaxllm.nn.parameter import Init, build, builds
from jaxllm.nn.position import Span
from jaxllm.sharding import constrain


@builds(config.Block)
class Block(nnx.Module):
    """Attention, then feed-forward, each normalised before and added to the residual stream."""

    def __init__(self, init: Init, part: config.Block, dim: int):
        self.attention_norm = build(init, part.norm, dim)
        self.attention = build(init, part.attention, dim)
        self.feed_forward_norm = build(init, part.norm, dim)
        self.feed_forward = build(init, part.feed_forward, dim)

    def __call__(self, x: jax.Array, span: Span, entry: Full | None = None) -> tuple[jax.Array, Full | None]:
        """x [B T D] -> [B T D], and the layer's cache entry."""
        mixed, entry = self.attention(self.attention_norm(x), span, entry)
        x = constrain(x + mixed, "batch", "time", "features")
        return constrain(x + self.feed_forward(self.feed_forward_norm(x)), "batch", "time", "features"), entry

    def new_entry(self, batch: int, capacity: int, dtype: jnp.dtype) -> Full:
        """What the layer keeps of rows it has seen, before it has seen any."""
        return self.attention.new_entry(batch, capacity, dtype)
