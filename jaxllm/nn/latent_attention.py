"""Multi-head latent attention, which caches one small vector per token in place of keys and values."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm import config
from jaxllm.cache import Latent
from jaxllm.kernels.attention import Scores, attention
from jaxllm.nn.linear import Linear
from jaxllm.nn.parameter import Init, build, builds
from jaxllm.nn.position import Span
from jaxllm.sharding import constrain


@builds(config.LatentAttention)
class LatentAttention(nnx.Module):
    """DeepSeek-AI 2024 (DeepSeek-V2, section 2.1); R is the latent dimension, P the rotary one.

    Many queries pay for expanding the latents to keys and values [B S N H]; few are taken into the latents' own
    space instead, where a key is the latent itself and all heads share it.
    """

    def __init__(self, init: Init, part: config.LatentAttention, dim: int):
        self.part = part
        embed, heads, latent = (("embed", dim),), (("heads", part.heads),), (("latent", part.latent_dim),)
        into, rank = (*heads, ("head", part.nope_dim + part.rope_dim)), part.query_latent_dim
        source = embed if rank is None else (("latent", rank),)
        self.query = None if rank else Linear(init, into, embed)
        self.query_down = Linear(init, source, embed, part.bias) if rank else None
        self.query_norm = build(init, part.norm if rank else None, source)
        self.query_up = Linear(init, into, source) if rank else None
        self.latent = Linear(init, latent, embed, part.bias)
        self.latent_norm = build(init, part.norm, latent)
        self.rope_key = Linear(init, (("head", part.rope_dim),), embed, part.bias)
        self.key = Linear(init, (*heads, ("head", part.nope_dim)), latent)
        self.value = Linear(init, (*heads, ("head", part.value_dim)), latent)
        self.output = Linear(init, embed, (*heads, ("head", part.value_dim)), part.bias)
        self.rotary = build(init, part.position, part.rope_dim)

    def __call__(self, x: jax.Array, span: Span, entry: Latent | None = None) -> tuple[jax.Array, Latent | None]:
        """x [B T D] -> [B T D] and the cache entry with this call's latents appended."""
        query = constrain(self._query(x), "batch", "time", "heads", "head")
        plain, turned = jnp.split(query, [self.part.nope_dim], axis=-1)
        turned = self.rotary(turned, span)
        latent, rope_key = self.latent_norm(self.latent(x)), self.rotary(self.rope_key(x)[:, :, None], span)[:, :, 0]
        if entry is not None:
            entry = entry.append(span.start, latent, rope_key)
            latent, rope_key = entry.latent, entry.rope_key
        mix = self._absorbed if self._absorbs(x.shape[1]) else self._expanded
        mixed = mix(plain, turned, latent, rope_key, span)
        return self.output(constrain(mixed, "batch", "time", "heads", "head")), entry

    def new_entry(self, batch: int, capacity: int, dtype: jnp.dtype) -> Latent:
        """An empty cache entry for `batch` rows of up to `capacity` positions."""
        sizes = (self.part.latent_dim, self.part.rope_dim)
        return Latent(*(constrain(jnp.zeros((batch, capacity, n), dtype), "batch", "time", "head") for n in sizes))

    def _query(self, x: jax.Array) -> jax.Array:
        """[B T D] -> [B T N H], by way of latents where queries have them."""
        if self.query is not None:
            return self.query(x)
        return self.query_up(self.query_norm(self.query_down(x)))  # pyright: ignore[reportOptionalCall]

    def _absorbs(self, queries: int) -> bool:
        """Whether scores in the latents' space cost less than expanding the latents, counted per key and head."""
        part = self.part
        head = part.nope_dim + part.value_dim
        return queries * (2 * part.latent_dim - head) < part.latent_dim * head

    def _expanded(
        self, plain: jax.Array, turned: jax.Array, latent: jax.Array, rope_key: jax.Array, span: Span
    ) -> jax.Array:
        """Attention on keys and values [B S N H] that are made from the latents [B S R]; [B T N H]."""
        key, value = self.key(latent), self.value(latent)
        shared = jnp.broadcast_to(rope_key[:, :, None], (*key.shape[:3], self.part.rope_dim))
        query, key = jnp.concatenate([plain, turned], axis=-1), jnp.concatenate([key, shared], axis=-1)
        return attention(query, key, value, offsets=span.start, scores=Scores(self.part.scale))

    def _absorbed(
        self, plain: jax.Array, turned: jax.Array, latent: jax.Array, rope_key: jax.Array, span: Span
    ) -> jax.Array:
        """The same with the maps from the latents applied to the queries before, and to the result after."""
        wide = jnp.promote_types(plain.dtype, jnp.float32)
        absorbed = jnp.einsum("btnh,nhr->btnr", plain, self.key.weight[...])  # XLA's CPU has none from bfloat16 to wide
        query = jnp.concatenate([absorbed, turned], axis=-1)
        key = jnp.concatenate([latent, rope_key], axis=-1)[:, :, None]
        mixed = attention(query, key, latent[:, :, None], offsets=span.start, scores=Scores(self.part.scale))
        out = jnp.einsum("btnr,nvr->btnv", mixed, self.value.weight[...], preferred_element_type=wide)
        return out.astype(plain.dtype)
