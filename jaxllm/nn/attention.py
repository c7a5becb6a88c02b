"""Attention with grouped key-value heads, positions, query-key norms, and a cache."""

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm.cache import CacheSpec, CallContext, KVCache, KVView, LayerCache, RotatingKVCache
from jaxllm.cache.quantized_kv import values_and_scale
from jaxllm.config import ALiBiConfig, AttentionConfig
from jaxllm.kernels.attention import attention
from jaxllm.kernels.spec import AttentionInputs, AttentionOutput, AttentionSpec
from jaxllm.nn.linear import Linear
from jaxllm.nn.norm import apply_norm, build_qk_norm
from jaxllm.nn.parameter import ParameterFactory, build, register_module
from jaxllm.sharding import constrain, kv_head_replicas

QUERY_AXES = ("batch", "time", "heads", "head")
KV_CALL_AXES = ("batch", "time", "kv_heads", "head")  # of the keys and values of a call, [B T K H]


class AttentionProjections(nnx.Module):
    """The projections of attention (Vaswani et al. 2017) with grouped key-value heads (Ainslie et al. 2023).

    Weights are [N H D], [K H D] and, of the output, [D N H].
    """

    def __init__(self, init: ParameterFactory, config: AttentionConfig, dim: int):
        self.config = config
        embed = (("embed", dim),)
        head = (("head", config.head_dim),)
        heads = (("heads", config.heads),)
        kv_heads = (("kv_heads", config.kv_heads),)
        self.query = Linear(init, heads + head, embed, config.bias)
        self.key = Linear(init, kv_heads + head, embed, config.bias)
        self.value = Linear(init, kv_heads + head, embed, config.bias)
        self.output = Linear(init, embed, heads + head, config.output_bias)
        self.query_norm = build_qk_norm(init, config.qk_norm, heads, head)
        self.key_norm = build_qk_norm(init, config.qk_norm, kv_heads, head)
        self.sinks = init((config.heads,), ("heads",)) if config.sinks else None
        alibi = None
        if isinstance(config.position, ALiBiConfig):
            alibi = config.position
        self.rotary = None if alibi else build(init, config.position, config.head_dim)
        self.spec = AttentionSpec(
            config.scale,
            causal=config.causal,
            window=config.window,
            chunk=config.chunk,
            softcap=config.softcap,
            alibi=alibi,
        )

    def _empty_cache(self, spec: CacheSpec, size: int) -> KVCache:
        heads = self.config.kv_heads * kv_head_replicas(self.config.kv_heads, self.config.heads)
        return KVCache.new(spec.batch, heads, size, (self.config.head_dim, self.config.head_dim), spec.dtype)

    def _project_query(self, x: jax.Array) -> jax.Array:
        """Returns the query [B T N H] of x [B T D], clipped and normalized, before positions."""
        query = self._clip(constrain(self.query(x), *QUERY_AXES))
        return apply_norm(self.query_norm, query)

    def _project_kv(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the key and value [B T K H] of x [B T D], clipped and normalized, before positions."""
        key = self._clip(constrain(self.key(x), *KV_CALL_AXES))
        value = self._clip(constrain(self.value(x), *KV_CALL_AXES))
        return apply_norm(self.key_norm, key), value

    def _clip(self, x: jax.Array) -> jax.Array:
        if self.config.clip is None:
            return x
        return jnp.clip(x, -self.config.clip, self.config.clip)

    def _replicate_kv_heads(self, x: jax.Array) -> jax.Array:
        """Repeats each head of keys or values [B T K H] so that every device has the heads that it needs."""
        replicas = kv_head_replicas(self.config.kv_heads, self.config.heads)
        if replicas == 1:
            return x
        return constrain(jnp.repeat(x, replicas, axis=2), *KV_CALL_AXES)

    def _attend(self, query: jax.Array, view: KVView) -> jax.Array:
        """Returns the projected output [B T D] of queries [B T N H]."""
        sinks = None
        if self.sinks is not None:
            sinks = self.sinks[...]
        out = attend(query, view, self.spec, sinks).out
        return self.output(constrain(out, *QUERY_AXES))


@register_module(AttentionConfig)
class Attention(AttentionProjections):
    """Self-attention with positions and a cache."""

    def __call__(
        self, x: jax.Array, call: CallContext, cache: LayerCache | None = None
    ) -> tuple[jax.Array, LayerCache | None]:
        """Returns [B T D] for x [B T D], and the cache with this call's keys and values appended."""
        query = self._project_query(x)
        key, value = self._project_kv(x)
        if self.rotary is not None:
            query = self.rotary(query, call)
            key = self.rotary(key, call)
        key = self._replicate_kv_heads(key)
        value = self._replicate_kv_heads(value)
        if cache is None:
            view = KVView.from_call(key, value)._replace(offsets=call.start)
        else:
            cache, view = cache.append(call, key, value)
        if not self.config.causal:  # causality hides padding from valid tokens; without it lengths must
            view = view._replace(lengths=call.lengths)
        return self._attend(query, view), cache

    def new_cache(self, spec: CacheSpec) -> LayerCache:
        """Creates an empty cache.

        A sliding window stores no more than its width, except where scores depend on a key's index in the cache.
        """
        window = self.config.window
        if self.config.chunk is not None or self.spec.alibi is not None:
            window = None
        if window is None:
            return self._empty_cache(spec, spec.capacity)
        return RotatingKVCache.new(self._empty_cache(spec, min(spec.capacity, window)), window)


def attend(query: jax.Array, view: KVView, spec: AttentionSpec, sinks: jax.Array | None = None) -> AttentionOutput:
    """Computes attention of queries [B T N H] on a view of keys and values."""
    if not view.in_order:
        spec = replace(spec, causal=False, window=None)
    key, key_scale = values_and_scale(view.key)
    value = None
    value_scale = key_scale
    if view.value is not None:
        value, value_scale = values_and_scale(view.value)
    inputs = AttentionInputs(query, key, value, view.offsets, view.lengths, sinks, key_scale, value_scale)
    return attention(inputs, spec)
