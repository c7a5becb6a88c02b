"""The causal language model: embedding, blocks, norm, head."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm import config
from jaxllm.cache import Cache, Full
from jaxllm.nn.attention import Attention
from jaxllm.nn.embedding import Embedding, PositionEmbedding
from jaxllm.nn.feed_forward import FeedForward
from jaxllm.nn.linear import Linear
from jaxllm.nn.norm import norm
from jaxllm.nn.parameter import Init
from jaxllm.nn.position import Span
from jaxllm.sharding import constrain


class Block(nnx.Module):
    """One layer: attention and feed-forward, each normalised before and added to the residual stream."""

    def __init__(self, init: Init, part: config.Block, dim: int):
        self.attention_norm = norm(init, part.norm, dim)
        self.attention = Attention(init, part.attention, dim)
        self.feed_forward_norm = norm(init, part.norm, dim)
        self.feed_forward = FeedForward(init, part.feed_forward, dim)

    def __call__(self, x: jax.Array, span: Span, entry: Full | None = None) -> tuple[jax.Array, Full | None]:
        """x [B T D] -> [B T D], and the layer's cache entry."""
        mixed, entry = self.attention(self.attention_norm(x), span, entry)
        x = constrain(x + mixed, "batch", "time", "features")
        return constrain(x + self.feed_forward(self.feed_forward_norm(x)), "batch", "time", "features"), entry


class Decoder(nnx.Module):
    """A causal language model made from `config.Decoder`; a pytree, for `jax.jit` and its kin to work on."""

    def __init__(self, part: config.Decoder, *, rngs: nnx.Rngs | None, dtype: jnp.dtype = jnp.float32):
        init = Init(rngs, dtype)
        self.config = part
        self.embedding = Embedding(init, part.vocab_size, part.embed_dim)
        length = part.position and part.position.length
        self.position = PositionEmbedding(init, length, part.embed_dim) if length else None
        self.layers = nnx.List([Block(init, part.block(i), part.embed_dim) for i in range(part.num_layers)])
        self.norm = norm(init, part.norm, part.embed_dim)
        head = (("vocab", part.vocab_size),), (("table", part.embed_dim),)
        self.head = None if part.tied else Linear(init, *head)

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the residual stream."""
        return self.embedding.weight.dtype

    def __call__(self, tokens: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        """Logits float32 (float64 for a float64 model) [B T V] for int32 tokens [B T].

        Rows are right-padded; `lengths`, int32 [B], says how much of each counts (all of it by default). What
        stands at padded positions of the result is meaningless.
        """
        return self.logits(self.hidden(tokens, lengths)[0])

    def hidden(
        self, tokens: jax.Array, lengths: jax.Array | None = None, cache: Cache | None = None
    ) -> tuple[jax.Array, Cache]:
        """The last layer's normalised states [B T D]; with a cache, of tokens that follow what it holds.

        Returns the cache with the first `lengths[b]` of these tokens added to each row.
        """
        tokens = jnp.asarray(tokens)
        batch, time = tokens.shape
        cache = Cache.none(self.config, batch) if cache is None else cache
        span = Span(cache.lengths, cache.lengths + (time if lengths is None else jnp.asarray(lengths, jnp.int32)))
        x, entries = self.embed(tokens, span), []
        for layer, entry in zip(self.layers, cache.entries, strict=True):
            x, entry = layer(x, span, entry)
            entries.append(entry)
        return self.norm(x), Cache(tuple(entries), span.lengths)

    def embed(self, tokens: jax.Array, span: Span) -> jax.Array:
        """What enters the first layer, [B T D]."""
        x = self.embedding(tokens)
        if self.position is not None:
            x = x + self.position(span.positions(tokens.shape[1]))
        return constrain(x, "batch", "time", "features")

    def logits(self, x: jax.Array) -> jax.Array:
        """Normalised states [... D] -> logits [... V], in float32 or wider."""
        return self.embedding.logits(x) if self.head is None else self.head.wide(x)


def abstract(part: config.Decoder, dtype: jnp.dtype = jnp.float32) -> Decoder:
    """The model with shapes in place of arrays: nothing is allocated."""
    return Decoder(part, rngs=None, dtype=dtype)
