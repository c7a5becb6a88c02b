"""Builds a decoder's config from the keys that most configs have, and the blocks of its layers."""

from collections.abc import Sequence
from typing import Any

from conversion.builders.sizes import Sizes
from conversion.config_reader import ConfigReader
from jaxllm.config import DecoderConfig, LayerConfig, NormConfig, StackConfig


def decoder(
    reader: ConfigReader,
    sizes: Sizes,
    blocks: Sequence[LayerConfig],
    norm: NormConfig | None,
    context: int,
    *,
    vocab_size: int,
    tied: bool = False,
    eos: int | None,
    **fields: Any,
) -> DecoderConfig:
    """Builds the config of a decoder from the keys that all architectures share.

    Args:
      reader: the keys of the config.
      sizes: sizes of the model.
      blocks: the config of every layer, or one for all.
      norm: norm of the last hidden state, if there is one.
      context: longest row that the model was made for.
      vocab_size: default of the key of that name.
      tied: default of `tie_word_embeddings`.
      eos: default of `eos_token_id`.
      **fields: further fields of `DecoderConfig`.
    """
    return DecoderConfig(
        vocab_size=reader.size("vocab_size", vocab_size),
        embed_dim=sizes.dim,
        layers=StackConfig(sizes.layers, cycle(blocks)),
        norm=norm,
        max_position_embeddings=context,
        tie_word_embeddings=reader.flag("tie_word_embeddings", tied),
        eos_token_ids=reader.token_ids("eos_token_id", eos),
        **fields,
    )


def cycle(blocks: Sequence[Any]) -> tuple[Any, ...]:
    """Returns the shortest prefix of a sequence whose repetition gives the whole sequence."""
    lengths = range(1, len(blocks) + 1)
    return next(tuple(blocks[:n]) for n in lengths if all(block == blocks[i % n] for i, block in enumerate(blocks)))
