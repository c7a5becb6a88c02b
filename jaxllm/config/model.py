"""Configs of whole models, and of the layer stacks that they consist of."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from jaxllm.config.block import LayerConfig
from jaxllm.config.checks import require_positive
from jaxllm.config.norm import NormConfig
from jaxllm.config.position import ALiBiConfig, DynamicNTKScalingConfig, LearnedPositionConfig, LongRoPEScalingConfig
from jaxllm.errors import InputError

MAX_LAYERS = 4096

_Scaling = TypeVar("_Scaling", LongRoPEScalingConfig, DynamicNTKScalingConfig)


@dataclass(frozen=True)
class StackConfig:
    """A stack of layers. Layer i is built from `blocks[i % len(blocks)]`."""

    num_layers: int
    blocks: tuple[LayerConfig, ...]

    def __post_init__(self) -> None:
        require_positive(self)
        if not self.blocks:
            raise InputError("config: a stack has no blocks; give at least one to build its layers from")
        if self.num_layers > MAX_LAYERS:
            raise InputError(f"config: num_layers is {self.num_layers}, expected at most {MAX_LAYERS}")

    def __iter__(self) -> Iterator[LayerConfig]:
        """Yields the config of each layer, in order."""
        return (self.block(layer) for layer in range(self.num_layers))

    def block(self, layer: int) -> LayerConfig:
        """Returns the config that a layer is built from."""
        return self.blocks[layer % len(self.blocks)]

    @property
    def has_length_limit(self) -> bool:
        """Whether positions limit the length of a row. Positions as ALiBi biases do not."""
        return not all(isinstance(block.attention.position, ALiBiConfig) for block in self.blocks)

    @property
    def longrope_original_lengths(self) -> tuple[int, ...]:
        """The original lengths of LongRoPE scaling: a longer row uses other frequencies for all of its positions."""
        return tuple(scaling.original_length for scaling in self._scalings(LongRoPEScalingConfig))

    @property
    def dynamic_ntk_original_length(self) -> float:
        """The length beyond which dynamic NTK scaling changes the frequencies with every further token."""
        return min((scaling.original_length for scaling in self._scalings(DynamicNTKScalingConfig)), default=math.inf)

    def _scalings(self, kind: type[_Scaling]) -> list[_Scaling]:
        """Returns the distinct rotary scalings of one kind, by their original length."""
        scalings = {getattr(block.attention.position, "scaling", None) for block in self.blocks}
        of_kind = [scaling for scaling in scalings if isinstance(scaling, kind)]
        return sorted(of_kind, key=lambda scaling: scaling.original_length)


class _ModelConfig:
    """What the configs of all models have. The fields of type `StackConfig` are the layer stacks of the model."""

    max_position_embeddings: int

    def __post_init__(self) -> None:
        require_positive(self)

    @property
    def stacks(self) -> Mapping[str, StackConfig]:
        """The layer stacks, by the name of the model's attribute that holds each."""
        return {name: value for name, value in vars(self).items() if isinstance(value, StackConfig)}

    @property
    def num_layers(self) -> int:
        """Number of layers of all stacks."""
        return sum(stack.num_layers for stack in self.stacks.values())

    @property
    def blocks(self) -> frozenset[LayerConfig]:
        """The distinct configs of the layers of all stacks."""
        return frozenset(block for stack in self.stacks.values() for block in stack)

    @property
    def max_length(self) -> float:
        """The longest row that the model can process."""
        return self.max_position_embeddings

    def split_name(self, name: str) -> tuple[str | None, str]:
        """Splits the name of a parameter into that of its stack and the rest. The first is None outside the stacks."""
        stack, _, rest = name.partition(".")
        if stack in self.stacks:
            return stack, rest
        return None, name


@dataclass(frozen=True)
class DecoderConfig(_ModelConfig):
    """A causal language model.

    Attributes:
      vocab_size: number of token ids, V.
      embed_dim: width of the residual stream, D.
      layers: the stack of layers.
      norm: norm of the last hidden state, if there is one.
      max_position_embeddings: longest row that the model was made for.
      tie_word_embeddings: whether the head uses the embedding's weight.
      position: learned positions that are added to the embedding, if there are any.
      embedding_dim: width of the embedding table, projected to `embed_dim`; None where the two are the same.
      embed_scale: factor that the embedding is multiplied by.
      embed_norm: norm of the scaled embedding, if there is one.
      head_bias: whether the head has a bias.
      logit_scale: factor that the logits are multiplied by.
      logit_softcap: bound of the scaled logits, applied by a tanh.
      eos_token_ids: token ids that end a text.
    """

    vocab_size: int
    embed_dim: int
    layers: StackConfig
    norm: NormConfig | None
    max_position_embeddings: int
    tie_word_embeddings: bool = False
    position: LearnedPositionConfig | None = None
    embedding_dim: int | None = None
    embed_scale: float = 1.0
    embed_norm: NormConfig | None = None
    head_bias: bool = False
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tie_word_embeddings and self.head_bias:
            raise InputError("config: head_bias is true, but a head that is tied to the embedding has no bias")

    @property
    def max_length(self) -> float:
        """The longest row that the model can process; infinite for ALiBi."""
        if self.position is None and not self.layers.has_length_limit:
            return math.inf
        return self.max_position_embeddings


@dataclass(frozen=True)
class EncoderConfig(_ModelConfig):
    """A bidirectional encoder such as BERT, which returns hidden states.

    Attributes:
      vocab_size: number of token ids, V.
      embed_dim: width of the residual stream, D.
      layers: the stack of layers, whose attention is not causal.
      norm: norm of the last hidden state, if there is one.
      max_position_embeddings: longest row that the model was made for.
      position: learned positions that are added to the embedding, if there are any.
      embed_norm: norm of the embedding, if there is one.
    """

    vocab_size: int
    embed_dim: int
    layers: StackConfig
    norm: NormConfig | None
    max_position_embeddings: int
    position: LearnedPositionConfig | None = None
    embed_norm: NormConfig | None = None


@dataclass(frozen=True)
class EncoderDecoderConfig(_ModelConfig):
    """An encoder and a decoder that attends to it, such as T5. Both use one embedding.

    Attributes:
      vocab_size: number of token ids, V.
      embed_dim: width of the residual streams, D.
      encoder_layers: the encoder's stack, whose attention is not causal.
      decoder_layers: the decoder's stack, whose blocks have cross-attention.
      encoder_norm: norm of the encoder's last hidden state, if there is one.
      decoder_norm: norm of the decoder's last hidden state, if there is one.
      max_position_embeddings: longest row that the model was made for.
      tie_word_embeddings: whether the head uses the embedding's weight.
    """

    vocab_size: int
    embed_dim: int
    encoder_layers: StackConfig
    decoder_layers: StackConfig
    encoder_norm: NormConfig | None
    decoder_norm: NormConfig | None
    max_position_embeddings: int
    tie_word_embeddings: bool = False


ModelConfig = DecoderConfig | EncoderConfig | EncoderDecoderConfig
