"""Self-attention with grouped heads, rotary positions and a cache."""

import jax
from flax import nnx

from jaxllm import config
from jaxllm.cache import Full
from jaxllm.kernels.attention import attention
from jaxllm.nn.linear import Linear
from jaxllm.nn.parameter import Init
from jaxllm.nn.position import Span, rotary_tables, rotate
from jaxllm.sharding import constrain


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

    def __call__(self, x: jax.Array, span: Span, entry: Full | None = None) -> tuple[jax.Array, Full | None]:
        """x [B T D] -> [B T D] and the cache entry with this call's keys and values appended."""
        part = self.part
        query = constrain(self.query(x), "batch", "time", "heads", "head")
        key, value = (constrain(map_(x), "batch", "time", "kv_heads", "head") for map_ in (self.key, self.value))
        if part.position is not None:
            tables = rotary_tables(part.position, part.head_dim, span, x.shape[1])
            query, key = rotate(query, *tables), rotate(key, *tables)
        if entry is not None:
            entry = entry.append(key, value, span.start)
            key, value = entry.key, entry.value
        mixed = attention(query, key, value, offsets=span.start, scale=part.scale, window=part.window)
        return self.output(constrain(mixed, "batch", "time", "heads", "head")), entry
