"""Self-attention with grouped heads, positions, norms of its heads, and a cache."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm import config
from jaxllm.cache import Entry, Full, Ring, Seen, Span
from jaxllm.kernels.attention import attention
from jaxllm.kernels.inputs import Mixed, Scores
from jaxllm.narrow import parts
from jaxllm.nn.linear import Linear
from jaxllm.nn.norm import head_norm
from jaxllm.nn.parameter import Init, build, builds
from jaxllm.sharding import constrain
from jaxllm.shares import copies


@builds(config.Attention)
class Attention(nnx.Module):
    """Vaswani et al. 2017, with grouped key-value heads (Ainslie et al. 2023); weights are [N H D] and [D N H]."""

    def __init__(self, init: Init, part: config.Attention, dim: int):
        self.part = part
        embed, head = (("embed", dim),), (("head", part.head_dim),)
        heads, kv_heads = (("heads", part.heads),), (("kv_heads", part.kv_heads),)
        self.query = Linear(init, heads + head, embed, part.bias)
        self.key = Linear(init, kv_heads + head, embed, part.bias)
        self.value = Linear(init, kv_heads + head, embed, part.bias)
        self.output = Linear(init, embed, heads + head, part.output_bias)
        self.query_norm = head_norm(init, part.head_norm, heads, head) if part.head_norm else None
        self.key_norm = head_norm(init, part.head_norm, kv_heads, head) if part.head_norm else None
        self.sinks = init((part.heads,), ("heads",)) if part.sinks else None
        alibi = part.position if isinstance(part.position, config.Alibi) else None
        self.rotary = None if alibi else build(init, part.position, part.head_dim)
        self.scores = Scores(part.scale, window=part.window, chunk=part.chunk, softcap=part.softcap, alibi=alibi)

    def __call__(self, x: jax.Array, span: Span, entry: Entry | None = None) -> tuple[jax.Array, Entry | None]:
        """x [B T D] -> [B T D] and the cache entry with this call's keys and values appended."""
        query, key, value = self._projections(x)
        if self.rotary is not None:
            query, key = self.rotary(query, span), self.rotary(key, span)
        key, value = self._spread(key), self._spread(value)
        seen = Seen(key.swapaxes(1, 2), value.swapaxes(1, 2), span.start)
        if entry is not None:
            entry, seen = entry.append(span, key, value)
        sinks = None if self.sinks is None else self.sinks[...]
        mixed = attend(query, seen, self.scores, sinks).out
        return self.output(constrain(mixed, "batch", "time", "heads", "head")), entry

    def new_entry(self, batch: int, capacity: int, dtype: Any) -> Entry:
        """An empty cache entry for `batch` rows of up to `capacity` positions, kept in a dtype.

        Of a window no more than its width is kept, but where scores depend on where a key stands.
        """
        part = self.part
        window = part.window if part.chunk is None and self.scores.alibi is None else None
        size = min(capacity, window or capacity)
        heads = part.kv_heads * copies(part.kv_heads, part.heads)
        entry = Full.new(batch, heads, size, (part.head_dim, part.head_dim), dtype)
        return entry if window is None else Ring.new(entry, window)

    def _spread(self, x: jax.Array) -> jax.Array:
        """Keys or values [B T K H], each head as often as devices need their own."""
        times = copies(self.part.kv_heads, self.part.heads)
        return x if times == 1 else constrain(jnp.repeat(x, times, axis=2), "batch", "time", "kv_heads", "head")

    def _projections(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Query [B T N H], key and value [B T K H], clipped and normalised, before positions."""
        query = constrain(self.query(x), "batch", "time", "heads", "head")
        key, value = (constrain(map_(x), "batch", "time", "kv_heads", "head") for map_ in (self.key, self.value))
        if self.part.clip is not None:
            query, key, value = (jnp.clip(y, -self.part.clip, self.part.clip) for y in (query, key, value))
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        return query, key, value


def attend(query: jax.Array, seen: Seen, scores: Scores, sinks: jax.Array | None = None) -> Mixed:
    """Attention of queries [B T N H] on what they see."""
    if not seen.ordered:
        scores = replace(scores, causal=False, window=None)
    key, key_scale = parts(seen.key)
    value, value_scale = (None, key_scale) if seen.value is None else parts(seen.value)
    arrays = value, key_scale, value_scale
    value, key_scale, value_scale = (None if x is None else x.swapaxes(1, 2) for x in arrays)
    return attention(
        query,
        key.swapaxes(1, 2),
        value,
        scores=scores,
        offsets=seen.offsets,
        lengths=seen.lengths,
        sinks=sinks,
        key_scale=key_scale,
        value_scale=value_scale,
    )
