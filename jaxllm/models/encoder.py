"""The bidirectional encoder, such as BERT: embedding, layers, norm."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm.cache import CallContext
from jaxllm.config import EncoderConfig
from jaxllm.models.model import Model, build_stack, check_positions, check_tokens
from jaxllm.nn.embedding import Embedding
from jaxllm.nn.norm import apply_norm, embed_axes
from jaxllm.nn.parameter import ParameterFactory, build
from jaxllm.sharding import constrain


class Encoder(Model):
    """A bidirectional encoder, which returns hidden states.

    Args:
      config: what the model consists of.
      rngs: random streams that initialize the parameters, or None for shapes instead of arrays.
      dtype: dtype of the parameters and of the residual stream.
      mesh: mesh that the model runs on. With several stages the layers are a pipeline.
    """

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs | None, dtype: Any = jnp.float32, mesh: Any = None):
        init = ParameterFactory(rngs, jnp.dtype(dtype))
        embed = embed_axes(config.embed_dim)
        self.config = config
        self.embedding = Embedding(init, config.vocab_size, config.embed_dim)
        self.position = build(init, config.position, config.embed_dim)
        self.embed_norm = build(init, config.embed_norm, embed)
        self.layers = build_stack(init, config.layers, config.embed_dim, mesh)
        self.norm = build(init, config.norm, embed)

    def __call__(self, tokens: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        """Returns the last hidden states [B T D].

        Args:
          tokens: token ids, int32 [B T]. Rows are right-padded.
          lengths: number of valid tokens of each row, int32 [B]; T by default. States of padding are meaningless.

        Raises:
          InputError: tokens or lengths have another shape or dtype, or there are more tokens than positions.
        """
        tokens, lengths = check_tokens(tokens, lengths)
        check_positions(self.config, tokens.shape[1])
        call = CallContext.whole_rows(lengths)
        x, _ = self.layers(self.embed(tokens, call), call, self.layers.no_caches)
        return apply_norm(self.norm, x)

    def embed(self, tokens: jax.Array, call: CallContext) -> jax.Array:
        """Returns the input of the first layer [B T D]."""
        x = self.embedding(tokens)
        if self.position is not None:
            x = x + self.position(call.positions(tokens.shape[1]))
        return constrain(apply_norm(self.embed_norm, x), "batch", "time", "features")
