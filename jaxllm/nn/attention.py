"""Self-attention with grouped heads, rotary positions and a cache."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm import config
from jaxllm.cache import Full
from jaxllm.kernels.attention import attention
from jaxllm.nn.linear import Linear
from jaxllm.nn.parameter import Init, build, builds
from jaxllm.nn.position import Span
from jaxllm.sharding import constrain


@builds(config.Attention)
class Attention(nnx.Module):
    """Vaswani et al. 2017, with grouped key-value heads (Ainslie et al. 2023); weights are [N H D] and [D N H]."""

    def __init__(self, init: Init, part: config.Attention, dim: int):
        self.part = part
        embed, size = (("embed", dim),), ("head", part.head_dim)
        queries, keys = (("heads", part.heads), size), (("kv_heads", part.kv_heads), size)
        self.query = Linear(init, queries, embed, part.bias)
        self.key = Linear(init, keys, embed, part.bias)
        self.value = Linear(init, keys, embed, part.bias)
        self.output = Linear(init, embed, queries, part.output_bias)
        self.position = build(init, part.position, part.head_dim) if part.position else None

    def __call__(self, x: jax.Array, span: Span, entry: Full | None = None) -> tuple[jax.Array, Full | None]:
        """x [B T D] -> [B T D] and the cache entry with this call's keys and values appended."""
        part = self.part
        query = constrain(self.query(x), "batch", "time", "heads", "head")
        key, value = (constrain(map_(x), "batch", "time", "kv_heads", "head") for map_ in (self.key, self.value))
        if self.position is not None:
            query, key = self.position(query, key, span)
        if entry is not None:
            entry = entry.append(key, value, span.start)
            key, value = entry.key, entry.value
        mixed = attention(query, key, value, offsets=span.start, scale=part.scale, window=part.window)
        return self.output(constrain(mixed, "batch", "time", "heads", "head")), entry

    def new_entry(self, batch: int, capacity: int, dtype: jnp.dtype) -> Full:
        """An empty cache entry for `batch` rows of up to `capacity` positions."""
        return Full.empty(batch, capacity, self.part.kv_heads, self.part.head_dim, dtype)
