"""Multi-head latent attention, which caches one small vector per token instead of keys and values."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm.cache import CacheSpec, CallContext, KVCache, KVView, LayerCache
from jaxllm.cache.quantized_kv import KVArray, values_and_scale
from jaxllm.config import LatentAttentionConfig
from jaxllm.kernels.attention import attention
from jaxllm.kernels.spec import AttentionInputs, AttentionOutput, AttentionSpec, merge_partials
from jaxllm.nn.attention import QUERY_AXES, attend
from jaxllm.nn.linear import Linear, linear_per_head, linear_per_head_transposed
from jaxllm.nn.parameter import ParameterFactory, build, register_module
from jaxllm.sharding import constrain

LATENT_BLOCK = 4096  # cached latents that are expanded to keys and values at a time


@register_module(LatentAttentionConfig)
class LatentAttention(nnx.Module):
    """Multi-head latent attention (DeepSeek-V2, DeepSeek-AI 2024, section 2.1).

    R is the size of the latent, P the size of the rotary part of a key. A call with many queries expands the cached
    latents to keys and values. A call with few queries maps them to the space of the latents instead, where the key of
    every head is the latent itself (weight absorption).
    """

    def __init__(self, init: ParameterFactory, config: LatentAttentionConfig, dim: int):
        self.config = config
        embed = (("embed", dim),)
        heads = (("heads", config.heads),)
        latent = (("latent", config.kv_lora_rank),)
        query = (*heads, ("head", config.nope_dim + config.rope_dim))
        value = (*heads, ("head", config.value_dim))
        query_latent = (("latent", config.q_lora_rank or 0),)
        has_query_latent = config.q_lora_rank is not None
        self.query = None if has_query_latent else Linear(init, query, embed)
        self.query_down = Linear(init, query_latent, embed, config.bias) if has_query_latent else None
        self.query_norm = build(init, config.norm, query_latent) if has_query_latent else None
        self.query_up = Linear(init, query, query_latent) if has_query_latent else None
        self.latent = Linear(init, latent, embed, config.bias)
        self.latent_norm = build(init, config.norm, latent)
        self.rope_key = Linear(init, (("head", config.rope_dim),), embed, config.bias)
        self.key = Linear(init, (*heads, ("head", config.nope_dim)), latent)
        self.value = Linear(init, value, latent)
        self.output = Linear(init, embed, value, config.bias)
        self.rotary = build(init, config.position, config.rope_dim)

    def __call__(
        self, x: jax.Array, call: CallContext, cache: LayerCache | None = None
    ) -> tuple[jax.Array, LayerCache | None]:
        """Returns [B T D] for x [B T D], and the cache with this call's latents appended."""
        query = constrain(self._project_query(x), *QUERY_AXES)
        nope, rope = jnp.split(query, [self.config.nope_dim], axis=-1)
        rope = self.rotary(rope, call)
        latent = self.latent_norm(self.latent(x))[:, :, None]
        rope_key = self.rotary(self.rope_key(x)[:, :, None], call)
        stored = jnp.concatenate([latent, rope_key], axis=-1)
        if cache is None:
            view = KVView.from_call(stored, None)._replace(offsets=call.start)
        else:
            cache, view = cache.append(call, stored)
        if self._absorption_is_cheaper(x.shape[1]):
            out = self._attend_absorbed(nope, rope, view)
        else:
            out = self._attend_expanded(nope, rope, view)
        return self.output(constrain(out, *QUERY_AXES)), cache

    def new_cache(self, spec: CacheSpec) -> LayerCache:
        """Creates an empty cache of latents, each with its rotary key."""
        dims = (self.config.kv_lora_rank + self.config.rope_dim, None)
        return KVCache.new(spec.batch, 1, spec.capacity, dims, spec.dtype)

    def _project_query(self, x: jax.Array) -> jax.Array:
        """Returns the query [B T N H] of x [B T D]."""
        if self.query is not None:
            return self.query(x)
        return self.query_up(self.query_norm(self.query_down(x)))  # pyright: ignore[reportOptionalCall]

    def _absorption_is_cheaper(self, queries: int) -> bool:
        """Compares the operations, per key and head, of scores in latent space and of expanding the latent."""
        head = self.config.nope_dim + self.config.value_dim
        rank = self.config.kv_lora_rank
        return queries * (2 * rank - head) < rank * head

    def _attend_expanded(self, nope: jax.Array, rope: jax.Array, view: KVView) -> jax.Array:
        """Returns [B T N V]. Expands the latents of a long cache to keys and values one block at a time."""
        query = jnp.concatenate([nope, rope], axis=-1)

        def attend_block(start: jax.Array | int, size: int) -> AttentionOutput:
            key, value = self._expand(_latent_block(view.key, start, size, query.dtype))
            offsets = None
            if view.offsets is not None:
                offsets = view.offsets - start
            return attention(AttentionInputs(query, key, value, offsets), AttentionSpec(self.config.scale))

        size = values_and_scale(view.key)[0].shape[2]
        if view.offsets is None or size <= LATENT_BLOCK:
            return attend_block(0, size).out
        last = jnp.minimum(view.offsets.max() + query.shape[1], size)
        blocks = (last + LATENT_BLOCK - 1) // LATENT_BLOCK

        def merge_block(index: jax.Array, merged: AttentionOutput) -> AttentionOutput:
            return merge_partials(merged, attend_block(index * LATENT_BLOCK, LATENT_BLOCK))

        first = attend_block(0, LATENT_BLOCK)
        first = AttentionOutput(first.out.astype(first.lse.dtype), first.lse)  # rounding between blocks would add up
        return jax.lax.fori_loop(1, blocks, merge_block, first).out.astype(query.dtype)

    def _expand(self, stored: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the keys [B N S H] and values [B N S V] of stored latents and rotary keys [B S R+P]."""
        latent, rope_key = jnp.split(stored, [self.config.kv_lora_rank], axis=-1)
        key = self.key(latent)
        rope_key = jnp.broadcast_to(rope_key[:, :, None], (*key.shape[:3], self.config.rope_dim))
        key = jnp.concatenate([key, rope_key], axis=-1)
        return key.swapaxes(1, 2), self.value(latent).swapaxes(1, 2)

    def _attend_absorbed(self, nope: jax.Array, rope: jax.Array, view: KVView) -> jax.Array:
        """Returns [B T N V]. Applies the maps from latents to keys and values to the queries and to the output."""
        absorbed = linear_per_head_transposed(nope, self.key.weight[...])
        query = jnp.concatenate([absorbed, rope], axis=-1)
        spec = AttentionSpec(self.config.scale, value_dim=self.config.kv_lora_rank)
        out = attend(query, view, spec).out
        return linear_per_head(out, self.value.weight[...]).astype(nope.dtype)


def _latent_block(stored: KVArray, start: jax.Array | int, size: int, dtype: jnp.dtype) -> jax.Array:
    """Returns `size` latents [B size R+P] from position `start` on.

    A last block that is shorter is padded at the end with earlier latents, which causality hides.
    """

    def block(array: jax.Array) -> jax.Array:
        first = jnp.minimum(start, array.shape[2] - size)
        latents = jax.lax.dynamic_slice_in_dim(array, first, size, axis=2)[:, 0]
        return jnp.roll(latents, first - start, axis=1)

    values, scale = values_and_scale(stored)
    if scale is None:
        return block(values).astype(dtype)
    return (block(values) * block(scale)[..., None]).astype(dtype)
