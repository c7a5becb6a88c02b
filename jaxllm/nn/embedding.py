"""Tables: token ids or positions to vectors, and back to logits."""

import jax
from flax import nnx

from jaxllm import config
from jaxllm.nn.linear import linear
from jaxllm.nn.parameter import Init, builds
from jaxllm.sharding import constrain, gather


class Embedding(nnx.Module):
    """One vector per token, [V D]; also the language-model head when the two are tied."""

    def __init__(self, init: Init, vocab_size: int, dim: int):
        self.weight = init((vocab_size, dim), ("vocab", "table"))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Token ids [B T] -> vectors [B T D]; an id outside the vocabulary gives NaN, never a wrong vector."""
        table, tokens = gather(self.weight[...], self.weight.axes), constrain(tokens, "rows", "time")
        x = table.at[tokens].get(mode="fill", wrap_negative_indices=False)
        return constrain(x, "rows", "time", "features")

    def logits(self, x: jax.Array) -> jax.Array:
        """Vectors [... D] -> their products with every token's vector [... V], in float32 or wider."""
        return linear(x, gather(self.weight[...], self.weight.axes))


@builds(config.LearnedPosition)
class LearnedPosition(nnx.Module):
    """One vector per position, [P D], behind the `offset` first of the table."""

    def __init__(self, init: Init, part: config.LearnedPosition, dim: int):
        self.offset = part.offset
        self.weight = init((part.length + part.offset, dim), ("position", "embed"))

    def __call__(self, positions: jax.Array) -> jax.Array:
        """Positions [B T] -> vectors [B T D]; padding beyond the table gets the last one, and is never seen."""
        return gather(self.weight[...], self.weight.axes).at[positions + self.offset].get(mode="clip")
