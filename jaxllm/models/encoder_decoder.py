"""The encoder-decoder, such as T5: one embedding, an encoder's layers, and a decoder's layers with cross-attention."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm.cache import Cache, CacheSpec, CallContext, EncoderOutput
from jaxllm.config import EncoderDecoderConfig
from jaxllm.models.model import Model, build_stack, check_tokens
from jaxllm.nn.embedding import Embedding
from jaxllm.nn.linear import Linear
from jaxllm.nn.norm import apply_norm, embed_axes
from jaxllm.nn.parameter import ParameterFactory, build
from jaxllm.sharding import constrain


class EncoderDecoder(Model):
    """An encoder, and a decoder whose layers attend to its output.

    Args:
      config: what the model consists of.
      rngs: random streams that initialize the parameters, or None for shapes instead of arrays.
      dtype: dtype of the parameters and of the residual streams.
      mesh: mesh that the model runs on. With several stages each stack of layers is a pipeline.
    """

    def __init__(
        self, config: EncoderDecoderConfig, *, rngs: nnx.Rngs | None, dtype: Any = jnp.float32, mesh: Any = None
    ):
        init = ParameterFactory(rngs, jnp.dtype(dtype))
        embed = embed_axes(config.embed_dim)
        self.config = config
        self.embedding = Embedding(init, config.vocab_size, config.embed_dim)
        self.encoder_layers = build_stack(init, config.encoder_layers, config.embed_dim, mesh)
        self.encoder_norm = build(init, config.encoder_norm, embed)
        self.decoder_layers = build_stack(init, config.decoder_layers, config.embed_dim, mesh)
        self.decoder_norm = build(init, config.decoder_norm, embed)
        vocab = (("vocab", config.vocab_size),)
        table = (("table", config.embed_dim),)
        self.head = None if config.tie_word_embeddings else Linear(init, vocab, table)

    @property
    def cached_stack(self) -> str:
        """Name of the stack whose layers have caches."""
        return "decoder_layers"

    def __call__(
        self,
        tokens: jax.Array,
        decoder_tokens: jax.Array,
        lengths: jax.Array | None = None,
        decoder_lengths: jax.Array | None = None,
    ) -> jax.Array:
        """Returns the decoder's logits [B T V], float32 (float64 for a float64 model).

        Args:
          tokens: the encoder's token ids, int32 [B S]. Rows are right-padded.
          decoder_tokens: the decoder's token ids, int32 [B T]. Rows are right-padded.
          lengths: number of valid tokens of each row of the encoder, int32 [B]; S by default.
          decoder_lengths: number of valid tokens of each row of the decoder, int32 [B]; T by default.

        Raises:
          InputError: tokens or lengths have another shape or dtype.
        """
        encoder = self.encode(tokens, lengths)
        return self.logits(self.decode(decoder_tokens, decoder_lengths, encoder=encoder)[0])

    def encode(self, tokens: jax.Array, lengths: jax.Array | None = None) -> EncoderOutput:
        """Returns the encoder's output for token ids, int32 [B S], of which the first `lengths` [B] are valid."""
        tokens, lengths = check_tokens(tokens, lengths)
        call = CallContext.whole_rows(lengths)
        x, _ = self.encoder_layers(self._embed(tokens), call, self.encoder_layers.no_caches)
        return EncoderOutput(apply_norm(self.encoder_norm, x), lengths)

    def decode(
        self,
        tokens: jax.Array,
        lengths: jax.Array | None = None,
        *,
        encoder: EncoderOutput | None = None,
        cache: Cache | None = None,
    ) -> tuple[jax.Array, Cache]:
        """Returns the decoder's last hidden states [B T D], normalized, and the cache with these tokens appended.

        Args:
          tokens: token ids, int32 [B T]. With a cache they continue its rows.
          lengths: number of valid tokens of each row, int32 [B]; T by default.
          encoder: the encoder's output. None if an earlier call with this cache was given it.
          cache: cache of the rows' previous tokens, and of the encoder's output.
        """
        tokens, added = check_tokens(tokens, lengths)
        if cache is None:
            cache = Cache(self.decoder_layers.no_caches)
        call = CallContext.appending(cache.lengths, added, encoder=encoder)
        x, layers = self.decoder_layers(self._embed(tokens), call, cache.layers)
        return apply_norm(self.decoder_norm, x), Cache(layers, call.lengths)

    def logits(self, x: jax.Array) -> jax.Array:
        """Returns the logits [... V] of normalized hidden states [... D], in float32 or wider."""
        if self.head is None:
            return self.embedding.logits(x)
        return self.head.accumulated(x)

    def new_cache(self, batch: int, capacity: int, encoder_capacity: int, dtype: Any = None) -> Cache:
        """Creates an empty cache for the decoder.

        Args:
          batch: number of rows.
          capacity: length of the decoder's longest row.
          encoder_capacity: length of the encoder's longest row.
          dtype: dtype of keys and values, the model's by default.
        """
        spec = CacheSpec(batch, capacity, self.dtype if dtype is None else dtype, encoder_capacity)
        return self.empty_cache(spec)

    def empty_cache(self, spec: CacheSpec) -> Cache:
        """Creates the empty cache that a `CacheSpec` describes."""
        return Cache(self.decoder_layers.new_caches(spec))

    def _embed(self, tokens: jax.Array) -> jax.Array:
        return constrain(self.embedding(tokens), "batch", "time", "features")
