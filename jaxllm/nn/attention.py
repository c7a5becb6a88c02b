"""Self-attention with grouped heads, positions, norms of its heads, and a cache."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm import config
from jaxllm.cache import Full
from jaxllm.kernels.attention import Scores, attention
from jaxllm.nn.linear import Linear
from jaxllm.nn.norm import head_norm
from jaxllm.nn.parameter import Init, build, builds
from jaxllm.nn.position import Span
from jaxllm.sharding import constrain


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
        self.alibi = part.position if isinstance(part.position, config.Alibi) else None
        self.rotary = None if self.alibi else build(init, part.position, part.head_dim)

    def __call__(self, x: jax.Array, span: Span, entry: Full | None = None) -> tuple[jax.Array, Full | None]:
        """x [B T D] -> [B T D] and the cache entry with this call's keys and values appended."""
        query, key, value = self._projections(x)
        if self.rotary is not None:
            query, key = self.rotary(query, span), self.rotary(key, span)
        if entry is not None:
            entry = entry.append(span.start, key, value)
            key, value = (constrain(kept, "batch", "time", "kv_heads", "head") for kept in (entry.key, entry.value))
            entry = Full(key, value)
        part, sinks = self.part, None if self.sinks is None else self.sinks[...]
        scores = Scores(part.scale, part.window, part.chunk, part.softcap, self.alibi)
        mixed = attention(query, key, value, offsets=span.start, scores=scores, sinks=sinks)
        return self.output(constrain(mixed, "batch", "time", "heads", "head")), entry

    def new_entry(self, batch: int, capacity: int, dtype: jnp.dtype) -> Full:
        """An empty cache entry for `batch` rows of up to `capacity` positions."""
        zeros = jnp.zeros((batch, capacity, self.part.kv_heads, self.part.head_dim), dtype)
        zeros = constrain(zeros, "batch", "time", "kv_heads", "head")
        return Full(zeros, zeros)

    def _projections(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Query [B T N H], key and value [B T K H], clipped and normalised, before positions."""
        query = constrain(self.query(x), "batch", "time", "heads", "head")
        key, value = (constrain(map_(x), "batch", "time", "kv_heads", "head") for map_ in (self.key, self.value))
        if self.part.clip is not None:
            query, key, value = (jnp.clip(y, -self.part.clip, self.part.clip) for y in (query, key, value))
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        return query, key, value
