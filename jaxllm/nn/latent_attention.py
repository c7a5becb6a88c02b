"""Multi-head latent attention, which caches one small vector per token in place of keys and values."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm import config
from jaxllm.cache import Entry, Full, Seen, Span
from jaxllm.kernels.attention import attention
from jaxllm.kernels.inputs import Mixed, Scores, combined
from jaxllm.narrow import Kept, parts
from jaxllm.nn.attention import attend
from jaxllm.nn.linear import Linear
from jaxllm.nn.parameter import Init, build, builds
from jaxllm.sharding import constrain

SEGMENT = 4096  # latents of a cache that are made keys and values at a time


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

    def __call__(self, x: jax.Array, span: Span, entry: Entry | None = None) -> tuple[jax.Array, Entry | None]:
        """x [B T D] -> [B T D] and the cache entry with this call's latents appended."""
        query = constrain(self._query(x), "batch", "time", "heads", "head")
        plain, turned = jnp.split(query, [self.part.nope_dim], axis=-1)
        turned = self.rotary(turned, span)
        latent, rope_key = self.latent_norm(self.latent(x)), self.rotary(self.rope_key(x)[:, :, None], span)
        kept = jnp.concatenate([latent[:, :, None], rope_key], axis=-1)
        seen = Seen(kept.swapaxes(1, 2), None, span.start)
        if entry is not None:
            entry, seen = entry.append(span, kept)
        mix = self._absorbed if self._absorbs(x.shape[1]) else self._expanded
        return self.output(constrain(mix(plain, turned, seen), "batch", "time", "heads", "head")), entry

    def new_entry(self, batch: int, capacity: int, dtype: Any) -> Entry:
        """An empty cache entry for `batch` rows of up to `capacity` positions: latents, each with its rotary key."""
        return Full.new(batch, 1, capacity, (self.part.latent_dim + self.part.rope_dim, None), dtype)

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

    def _expanded(self, plain: jax.Array, turned: jax.Array, seen: Seen) -> jax.Array:
        """Attention on keys and values that are made from the latents, of a long cache a segment at a time."""
        query, offsets = jnp.concatenate([plain, turned], axis=-1), seen.offsets

        def segment(start: jax.Array | int, size: int) -> Mixed:
            key, value = self._from_latents(_segment(seen.key, start, size, query.dtype))
            at = None if offsets is None else offsets - start
            return attention(query, key, value, scores=Scores(self.part.scale), offsets=at)

        kept = parts(seen.key)[0].shape[2]
        if offsets is None or kept <= SEGMENT:
            return segment(0, kept).out
        count = -(-jnp.minimum(offsets.max() + query.shape[1], kept) // SEGMENT)

        def step(index: jax.Array, mixed: Mixed) -> Mixed:
            return combined(mixed, segment(index * SEGMENT, SEGMENT))

        first = segment(0, SEGMENT)
        wide = Mixed(first.out.astype(first.lse.dtype), first.lse)  # what is rounded in between adds up
        return jax.lax.fori_loop(1, count, step, wide).out.astype(query.dtype)

    def _from_latents(self, kept: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys [B S N H] and values [B S N V] of latents with their rotary keys [B S R+P]."""
        latent, rope_key = jnp.split(kept, [self.part.latent_dim], axis=-1)
        key, value = self.key(latent), self.value(latent)
        shared = jnp.broadcast_to(rope_key[:, :, None], (*key.shape[:3], self.part.rope_dim))
        return jnp.concatenate([key, shared], axis=-1), value

    def _absorbed(self, plain: jax.Array, turned: jax.Array, seen: Seen) -> jax.Array:
        """The same with the maps from the latents applied to the queries before, and to the result after."""
        wide = jnp.promote_types(plain.dtype, jnp.float32)
        absorbed = jnp.einsum("btnh,nhr->btnr", plain, self.key.weight[...])  # XLA's CPU has none from bfloat16 to wide
        query = jnp.concatenate([absorbed, turned], axis=-1)
        mixed = attend(query, seen, Scores(self.part.scale, value_dim=self.part.latent_dim)).out
        out = jnp.einsum("btnr,nvr->btnv", mixed, self.value.weight[...], preferred_element_type=wide)
        return out.astype(plain.dtype)


def _segment(key: Kept, start: jax.Array | int, size: int, dtype: jnp.dtype) -> jax.Array:
    """Latents [B s R+P] from one position on; what is left of the last segment comes first in it."""

    def take(kept: jax.Array) -> jax.Array:
        at = jnp.minimum(start, kept.shape[2] - size)
        return jnp.roll(jax.lax.dynamic_slice_in_dim(kept, at, size, axis=2)[:, 0], at - start, axis=1)

    kept, scale = parts(key)
    return take(kept).astype(dtype) if scale is None else (take(kept) * take(scale)[..., None]).astype(dtype)
