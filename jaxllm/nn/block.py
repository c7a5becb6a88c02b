"""Layers: how attention and feed-forward are joined to the residual stream."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm import config
from jaxllm.cache import Entry, Span
from jaxllm.nn.norm import embed
from jaxllm.nn.parameter import Init, build, builds
from jaxllm.sharding import constrain


class Layer(nnx.Module):
    """What every layer has: attention, and a feed-forward network."""

    def __init__(self, init: Init, part: config.Block | config.ParallelBlock, dim: int):
        self.attention_norm = build(init, part.norm, embed(dim))
        self.attention = build(init, part.attention, dim)
        self.feed_forward = build(init, part.feed_forward, dim)

    def new_entry(self, batch: int, capacity: int, dtype: jnp.dtype) -> Entry:
        """What the layer keeps of rows it has seen, before it has seen any."""
        return self.attention.new_entry(batch, capacity, dtype)


@builds(config.Block)
class Block(Layer):
    """Attention, then feed-forward, each with its norm and added to the residual stream."""

    def __init__(self, init: Init, part: config.Block, dim: int):
        super().__init__(init, part, dim)
        around = part.placement == "around"
        self.placement, self.residual_scale = part.placement, part.residual_scale
        self.feed_forward_norm = build(init, part.norm, embed(dim))
        self.attention_output_norm = build(init, part.norm if around else None, embed(dim))
        self.feed_forward_output_norm = build(init, part.norm if around else None, embed(dim))

    def __call__(self, x: jax.Array, span: Span, entry: Entry | None = None) -> tuple[jax.Array, Entry | None]:
        """x [B T D] -> [B T D], and the layer's cache entry."""
        mixed, entry = self.attention(self._enter(x, self.attention_norm), span, entry)
        x = self._leave(x, mixed, self.attention_norm, self.attention_output_norm)
        hidden = self.feed_forward(self._enter(x, self.feed_forward_norm))
        return self._leave(x, hidden, self.feed_forward_norm, self.feed_forward_output_norm), entry

    def _enter(self, x: jax.Array, norm: Any) -> jax.Array:
        return norm(x) if self.placement in ("before", "around") else x

    def _leave(self, x: jax.Array, branch: jax.Array, norm: Any, output_norm: Any) -> jax.Array:
        if self.placement == "output":
            branch = norm(branch)
        elif self.placement == "around":
            branch = output_norm(branch)
        x = x + branch * self.residual_scale
        return constrain(norm(x) if self.placement == "after" else x, "batch", "time", "features")


@builds(config.ParallelBlock)
class ParallelBlock(Layer):
    """Attention and feed-forward side by side on the same stream (Wang & Komatsuzaki 2021)."""

    def __init__(self, init: Init, part: config.ParallelBlock, dim: int):
        super().__init__(init, part, dim)
        self.feed_forward_norm = build(init, None if part.shared else part.norm, embed(dim))

    def __call__(self, x: jax.Array, span: Span, entry: Entry | None = None) -> tuple[jax.Array, Entry | None]:
        """x [B T D] -> [B T D], and the layer's cache entry."""
        normal = self.attention_norm(x)
        mixed, entry = self.attention(normal, span, entry)
        hidden = self.feed_forward(normal if self.feed_forward_norm is None else self.feed_forward_norm(x))
        return constrain(x + mixed + hidden, "batch", "time", "features"), entry
