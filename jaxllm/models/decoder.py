"""The causal language model: embedding, layers, norm, head."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm.cache import Cache, CacheSpec, CallContext, TokenCache
from jaxllm.config import DecoderConfig
from jaxllm.kernels.spec import softcap
from jaxllm.models.model import Model, build_stack, check_positions, check_tokens
from jaxllm.nn.embedding import Embedding
from jaxllm.nn.layer_stack import hidden_states, recompute_longrope
from jaxllm.nn.linear import Linear
from jaxllm.nn.norm import apply_norm, embed_axes
from jaxllm.nn.parameter import ParameterFactory, build
from jaxllm.sharding import constrain


class Decoder(Model):
    """A causal language model.

    Args:
      config: what the model consists of.
      rngs: random streams that initialize the parameters, or None for shapes instead of arrays.
      dtype: dtype of the parameters and of the residual stream.
      mesh: mesh that the model runs on. With several stages the layers are a pipeline.
    """

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs | None, dtype: Any = jnp.float32, mesh: Any = None):
        init = ParameterFactory(rngs, jnp.dtype(dtype))
        dim = config.embed_dim
        embed = embed_axes(dim)
        self.config = config
        embedding_dim = config.embedding_dim or dim
        table = (("table", embedding_dim),)
        self.embedding = Embedding(init, config.vocab_size, embedding_dim)
        self.project_in = Linear(init, embed, table) if config.embedding_dim else None
        self.embed_norm = build(init, config.embed_norm, embed)
        self.position = build(init, config.position, dim)
        self.layers = build_stack(init, config.layers, dim, mesh)
        self.norm = build(init, config.norm, embed)
        self.project_out = Linear(init, table, embed) if config.embedding_dim else None
        vocab = (("vocab", config.vocab_size),)
        self.head = None if config.tie_word_embeddings else Linear(init, vocab, table, config.head_bias)

    @property
    def cached_stack(self) -> str:
        """Name of the stack whose layers have caches."""
        return "layers"

    def __call__(self, tokens: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        """Returns logits [B T V], float32 (float64 for a float64 model).

        Args:
          tokens: token ids, int32 [B T]. Rows are right-padded.
          lengths: number of valid tokens of each row, int32 [B]; T by default. Logits of padding are meaningless.

        Raises:
          InputError: tokens or lengths have another shape or dtype, or there are more tokens than positions.
        """
        return self.logits(self.hidden(tokens, lengths)[0])

    def hidden(
        self,
        tokens: jax.Array,
        lengths: jax.Array | None = None,
        cache: Cache | None = None,
        rope_length: jax.Array | None = None,
    ) -> tuple[jax.Array, Cache]:
        """Returns the last hidden states [B T D], normalized, and the cache with these tokens appended.

        Args:
          tokens: token ids, int32 [B T]. With a cache they continue its rows.
          lengths: number of valid tokens of each row, int32 [B]; T by default.
          cache: cache of the rows' previous tokens.
          rope_length: length of each row that rotary scaling assumes, int32 [B], where more tokens of the same prompt
            are to follow.
        """
        tokens, added = check_tokens(tokens, lengths)
        if cache is None:
            check_positions(self.config, tokens.shape[1])
            cache = Cache(self.layers.no_caches)
        call = CallContext.appending(cache.lengths, added, rope_length)
        layers = recompute_longrope(self.layers, self.embed, self.config.layers.longrope_original_lengths, cache, call)
        x, layers = self.layers(self.embed(tokens, call), call, layers)
        x = apply_norm(self.norm, x)
        token_cache = cache.tokens
        if token_cache is not None:
            token_cache = token_cache.append(call, tokens.astype(jnp.int32))
        return x, Cache(layers, call.lengths, token_cache)

    def hidden_states(self, tokens: jax.Array, lengths: jax.Array | None = None) -> list[jax.Array]:
        """Returns the residual stream [B T D] in front of the first layer and after each layer."""
        tokens, lengths = check_tokens(tokens, lengths)
        call = CallContext.whole_rows(lengths)
        return hidden_states(self.layers, self.embed(tokens, call), call)

    def embed(self, tokens: jax.Array, call: CallContext) -> jax.Array:
        """Returns the input of the first layer [B T D]."""
        x = self.embedding(tokens)
        if self.config.embed_scale != 1:
            x = x * jnp.asarray(self.config.embed_scale, x.dtype)  # rounded to the dtype first, as in PyTorch
        if self.project_in is not None:
            x = self.project_in(x)
        x = apply_norm(self.embed_norm, x)
        if self.position is not None:
            x = x + self.position(call.positions(tokens.shape[1]))
        return constrain(x, "batch", "time", "features")

    def logits(self, x: jax.Array) -> jax.Array:
        """Returns the logits [... V] of normalized hidden states [... D], in float32 or wider."""
        if self.project_out is not None:
            x = self.project_out(x)
        if self.head is None:
            logits = self.embedding.logits(x)
        else:
            logits = self.head.accumulated(x)
        if self.config.logit_scale != 1:
            logits = logits * self.config.logit_scale
        if self.config.logit_softcap is not None:
            logits = softcap(logits, self.config.logit_softcap)
        return constrain(logits, "rows", *(("time",) * (logits.ndim - 2)), "vocab")

    def new_cache(self, batch: int, capacity: int, dtype: Any = None) -> Cache:
        """Creates an empty cache.

        Args:
          batch: number of rows.
          capacity: length of the longest row.
          dtype: dtype of keys and values, the model's by default. Eight bits (`jaxllm.cache.quantized_kv.DTYPES`) are
            stored with one scale for each vector.
        """
        return self.empty_cache(CacheSpec(batch, capacity, self.dtype if dtype is None else dtype))

    def empty_cache(self, spec: CacheSpec) -> Cache:
        """Creates the empty cache that a `CacheSpec` describes."""
        layers = self.layers.new_caches(spec)
        tokens = None
        if self.config.layers.longrope_original_lengths:
            tokens = TokenCache(jnp.zeros((spec.batch, spec.capacity), jnp.int32), jnp.zeros(spec.batch, jnp.int32))
        return Cache(layers, None, tokens)
