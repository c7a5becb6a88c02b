"""Embedding tables: token ids or positions to vectors, and vectors back to logits."""

from typing import Literal

import jax
from flax import nnx

from jaxllm.config import LearnedPositionConfig
from jaxllm.nn.linear import linear
from jaxllm.nn.parameter import ParameterFactory, register_module
from jaxllm.sharding import constrain, gather


def embedding(ids: jax.Array, weight: nnx.Param, out_of_range: Literal["fill", "clip"]) -> jax.Array:
    """Looks up ids [B T] in a table [V D] and returns [B T D].

    An id outside the table yields NaN ("fill") or the vector of the nearest id ("clip").
    """
    table = gather(weight[...], weight.axes)
    return table.at[ids].get(mode=out_of_range, wrap_negative_indices=False)


class Embedding(nnx.Module):
    """One vector per token, [V D]. It is also the head of a model that ties the two."""

    def __init__(self, init: ParameterFactory, vocab_size: int, dim: int):
        self.weight = init((vocab_size, dim), ("vocab", "table"), row_dims=1, is_table=True)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Returns the vectors [B T D] of token ids [B T]; NaN for an id outside the vocabulary."""
        x = embedding(constrain(tokens, "rows", "time"), self.weight, out_of_range="fill")
        return constrain(x, "rows", "time", "features")

    def logits(self, x: jax.Array) -> jax.Array:
        """Returns the products [... V] of vectors [... D] with every token's vector, in float32 or wider."""
        return linear(x, gather(self.weight[...], self.weight.axes))


@register_module(LearnedPositionConfig)
class LearnedPosition(nnx.Module):
    """One vector per position, [P D], stored after `offset` unused ones."""

    def __init__(self, init: ParameterFactory, config: LearnedPositionConfig, dim: int):
        self.offset = config.offset
        self.weight = init((config.length + config.offset, dim), ("position", "embed"), row_dims=1, is_table=True)

    def __call__(self, positions: jax.Array) -> jax.Array:
        """Returns the vectors [B T D] of positions [B T]. Padding beyond the table gets the last vector."""
        return embedding(positions + self.offset, self.weight, out_of_range="clip")
