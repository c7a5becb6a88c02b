"""What the layers of one forward call share, and what its queries attend to."""

from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp

from jaxllm.cache.quantized_kv import KVArray


class CacheSpec(NamedTuple):
    """What a new cache must hold.

    Attributes:
      batch: number of rows, B.
      capacity: length of the longest row, S.
      dtype: dtype of keys and values, which are quantized if it has eight bits.
      encoder_capacity: length of the longest row of an encoder's output, for cross-attention.
    """

    batch: int
    capacity: int
    dtype: Any
    encoder_capacity: int = 0


class EncoderOutput(NamedTuple):
    """Output of an encoder, for cross-attention.

    Attributes:
      states: last hidden states, [B S D].
      lengths: number of valid states of each row, int32 [B].
    """

    states: jax.Array
    lengths: jax.Array


class CallContext(NamedTuple):
    """Positions of one call's tokens within their rows, and the encoder's output if there is one.

    Attributes:
      start: position of each row's first token, int32 [B]. None means that every row starts at 0.
      lengths: length of each row after this call, int32 [B].
      rope_length: length that rotary scaling assumes, int32 [B]. Exceeds `lengths` during chunked prefill.
      encoder: what cross-attention attends to. None if there is no encoder, or if the caches already hold it.
    """

    start: jax.Array | None
    lengths: jax.Array
    rope_length: jax.Array
    encoder: EncoderOutput | None = None

    @classmethod
    def whole_rows(cls, lengths: jax.Array, encoder: EncoderOutput | None = None) -> Self:
        """The context of a call that processes rows of the given lengths, int32 [B], from their start."""
        return cls(None, lengths, lengths, encoder)

    @classmethod
    def appending(
        cls,
        stored: jax.Array | None,
        added: jax.Array,
        rope_length: jax.Array | None = None,
        encoder: EncoderOutput | None = None,
    ) -> Self:
        """The context of a call that appends tokens to rows.

        Args:
          stored: length of each row before the call, int32 [B]. None if all rows are empty.
          added: number of valid tokens of each row, int32 [B].
          rope_length: length that rotary scaling assumes, int32 [B], if it is longer than the row after the call.
          encoder: what cross-attention attends to.
        """
        lengths = added
        if stored is not None:
            lengths = stored + added
        if rope_length is None:
            return cls(stored, lengths, lengths, encoder)
        return cls(stored, lengths, jnp.maximum(lengths, rope_length), encoder)

    @property
    def start_positions(self) -> jax.Array:
        """Position of each row's first token, int32 [B]."""
        if self.start is None:
            return jnp.zeros_like(self.lengths)
        return self.start

    def positions(self, tokens: int) -> jax.Array:
        """Positions of the call's tokens, int32 [B T]."""
        return self.start_positions[:, None] + jnp.arange(tokens, dtype=jnp.int32)


class KVView(NamedTuple):
    """The keys and values that the queries of a call attend to, in the cache's layout.

    Attributes:
      key: [B K S H].
      value: [B K S V]. None if the values are part of the keys.
      offsets: position of the first query among the keys, int32 [B]. None means 0.
      lengths: number of valid keys, int32 [B]. None means that all are valid, or that causality hides the others.
      in_order: whether the keys are in the order of their positions. If not, they are exactly the keys that the one
        query of each row may attend to.
    """

    key: KVArray
    value: KVArray | None
    offsets: jax.Array | None = None
    lengths: jax.Array | None = None
    in_order: bool = True

    @classmethod
    def from_call(cls, key: jax.Array, value: jax.Array | None, lengths: jax.Array | None = None) -> Self:
        """The view of a call that starts its rows, and so attends to its own keys [B T K H] and values [B T K V]."""
        return cls(to_cache_layout(key), None if value is None else to_cache_layout(value), lengths=lengths)


def to_cache_layout(x: jax.Array) -> jax.Array:
    """Transposes keys or values [B T K H] to the cache's layout, [B K T H]."""
    return x.swapaxes(1, 2)
