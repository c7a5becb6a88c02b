"""Layers: attention and feed-forward, joined to the residual stream."""

from typing import Any

import jax
from flax import nnx

from jaxllm.cache import CacheSpec, CallContext, CrossAttentionCache, LayerCache
from jaxllm.config import BlockConfig, CrossAttentionBlockConfig, NormConfig, ParallelBlockConfig
from jaxllm.nn.cross_attention import CrossAttention
from jaxllm.nn.norm import apply_norm, embed_axes
from jaxllm.nn.parameter import ParameterFactory, build, register_module
from jaxllm.sharding import constrain


class ResidualBranches(nnx.Module):
    """The residual branches of every sequential layer: attention and feed-forward, with up to three norms each."""

    def __init__(self, init: ParameterFactory, config: BlockConfig, dim: int):
        self.residual_scale = config.residual_scale
        self.attention_norm = _norm(init, config.pre_norm, dim)
        self.attention = build(init, config.attention, dim)
        self.attention_output_norm = _norm(init, config.output_norm, dim)
        self.attention_post_norm = _norm(init, config.post_norm, dim)
        self.feed_forward_norm = _norm(init, config.pre_norm, dim)
        self.feed_forward = build(init, config.feed_forward, dim)
        self.feed_forward_output_norm = _norm(init, config.output_norm, dim)
        self.feed_forward_post_norm = _norm(init, config.post_norm, dim)

    def _self_attention(
        self, x: jax.Array, call: CallContext, cache: LayerCache | None
    ) -> tuple[jax.Array, LayerCache | None]:
        branch, cache = self.attention(apply_norm(self.attention_norm, x), call, cache)
        return self._add(x, branch, self.attention_output_norm, self.attention_post_norm), cache

    def _feed_forward(self, x: jax.Array) -> jax.Array:
        branch = self.feed_forward(apply_norm(self.feed_forward_norm, x))
        return self._add(x, branch, self.feed_forward_output_norm, self.feed_forward_post_norm)

    def _add(self, x: jax.Array, branch: jax.Array, output_norm: Any, post_norm: Any) -> jax.Array:
        """Adds a branch's output [B T D] to the residual stream [B T D]."""
        x = x + apply_norm(output_norm, branch) * self.residual_scale
        return constrain(apply_norm(post_norm, x), "batch", "time", "features")


@register_module(BlockConfig)
class Block(ResidualBranches):
    """Attention, then feed-forward."""

    def __call__(
        self, x: jax.Array, call: CallContext, cache: LayerCache | None = None
    ) -> tuple[jax.Array, LayerCache | None]:
        """Returns the residual stream [B T D] after this layer, and the layer's updated cache."""
        x, cache = self._self_attention(x, call, cache)
        return self._feed_forward(x), cache

    def new_cache(self, spec: CacheSpec) -> LayerCache:
        """Creates the layer's empty cache."""
        return self.attention.new_cache(spec)


@register_module(CrossAttentionBlockConfig)
class CrossAttentionBlock(ResidualBranches):
    """Attention, cross-attention to an encoder's output, then feed-forward."""

    def __init__(self, init: ParameterFactory, config: CrossAttentionBlockConfig, dim: int):
        super().__init__(init, config, dim)
        self.cross_attention_norm = _norm(init, config.pre_norm, dim)
        self.cross_attention = CrossAttention(init, config.cross_attention, dim)
        self.cross_attention_output_norm = _norm(init, config.output_norm, dim)
        self.cross_attention_post_norm = _norm(init, config.post_norm, dim)

    def __call__(
        self, x: jax.Array, call: CallContext, cache: CrossAttentionCache | None = None
    ) -> tuple[jax.Array, CrossAttentionCache | None]:
        """Returns the residual stream [B T D] after this layer, and the layer's updated caches."""
        self_cache = None
        cross_cache = None
        if cache is not None:
            self_cache = cache.self_attention
            cross_cache = cache.cross_attention
        x, self_cache = self._self_attention(x, call, self_cache)
        branch, cross_cache = self.cross_attention(apply_norm(self.cross_attention_norm, x), call, cross_cache)
        x = self._add(x, branch, self.cross_attention_output_norm, self.cross_attention_post_norm)
        if self_cache is not None and cross_cache is not None:
            cache = CrossAttentionCache(self_cache, cross_cache)
        return self._feed_forward(x), cache

    def new_cache(self, spec: CacheSpec) -> CrossAttentionCache:
        """Creates the layer's two empty caches."""
        return CrossAttentionCache(self.attention.new_cache(spec), self.cross_attention.new_cache(spec))


@register_module(ParallelBlockConfig)
class ParallelBlock(nnx.Module):
    """Attention and feed-forward side by side on the same residual stream (Wang & Komatsuzaki 2021)."""

    def __init__(self, init: ParameterFactory, config: ParallelBlockConfig, dim: int):
        self.attention_norm = _norm(init, config.pre_norm, dim)
        self.attention = build(init, config.attention, dim)
        self.feed_forward_norm = None if config.shared_norm else _norm(init, config.pre_norm, dim)
        self.feed_forward = build(init, config.feed_forward, dim)

    def __call__(
        self, x: jax.Array, call: CallContext, cache: LayerCache | None = None
    ) -> tuple[jax.Array, LayerCache | None]:
        """Returns the residual stream [B T D] after this layer, and the layer's updated cache."""
        normalized = self.attention_norm(x)
        attention, cache = self.attention(normalized, call, cache)
        if self.feed_forward_norm is not None:
            normalized = self.feed_forward_norm(x)
        return constrain(x + attention + self.feed_forward(normalized), "batch", "time", "features"), cache

    def new_cache(self, spec: CacheSpec) -> LayerCache:
        """Creates the layer's empty cache."""
        return self.attention.new_cache(spec)


def _norm(init: ParameterFactory, config: NormConfig | None, dim: int) -> Any:
    """Builds a norm of the residual stream, if there is one."""
    return build(init, config, embed_axes(dim))
