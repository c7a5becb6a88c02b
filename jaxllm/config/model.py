"""Layers, and the model that is made of them."""

import math
from dataclasses import dataclass

from jaxllm.config.attention import Attention, LatentAttention
from jaxllm.config.checks import one_of, positive
from jaxllm.config.feed_forward import FeedForward, Mixture
from jaxllm.config.norm import Norm
from jaxllm.config.position import Alibi, DynamicScaling, LearnedPosition, LongScaling
from jaxllm.errors import InputError

MAX_LAYERS = 4096


@dataclass(frozen=True)
class Block:
    """Attention, then feed-forward, each joined to the residual stream x with a norm by `placement`.

    "before": x + f(norm x); "output": x + norm f(x); "around": x + norm f(norm x); "after": norm(x + f(x)).
    What is added is multiplied by `residual_scale`.
    """

    norm: Norm
    attention: Attention | LatentAttention
    feed_forward: FeedForward | Mixture
    placement: str = "before"
    residual_scale: float = 1.0

    def __post_init__(self) -> None:
        one_of("Block.placement", self.placement, ("before", "output", "around", "after"))


@dataclass(frozen=True)
class ParallelBlock:
    """`x + attention(norm x) + feed_forward(norm x)` (Wang & Komatsuzaki 2021), the two norms the same if `shared`."""

    norm: Norm
    attention: Attention
    feed_forward: FeedForward | Mixture
    shared: bool = True


@dataclass(frozen=True)
class Decoder:
    """A causal language model. Layer i is built from `blocks[i % len(blocks)]`.

    `context` is the longest row the model was made for; `eos_token_ids` is empty when nothing ends a text. Token
    vectors are `table_dim` wide (projected, where that is not the embed_dim), then multiplied by `embed_scale`, then
    normalised; logits are multiplied by `logit_scale`, then bounded by a tanh to `logit_softcap`.
    """

    vocab_size: int
    embed_dim: int
    num_layers: int
    blocks: tuple[Block | ParallelBlock, ...]
    norm: Norm | None
    context: int
    tied: bool = False
    position: LearnedPosition | None = None
    table_dim: int | None = None
    embed_scale: float = 1.0
    embed_norm: Norm | None = None
    head_bias: bool = False
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        positive(self)
        if not self.blocks:
            raise InputError("config: a decoder needs a block to build its layers from")
        if self.num_layers > MAX_LAYERS:
            raise InputError(f"config: {self.num_layers} layers: at most {MAX_LAYERS} are built")
        if self.tied and self.head_bias:
            raise InputError("config: a head that is tied to the embedding has no bias")

    @property
    def limit(self) -> float:
        """The longest row that the model can take: ALiBi has no end, however long the rows it was trained on."""
        endless = self.position is None and all(isinstance(b.attention.position, Alibi) for b in self.blocks)
        return math.inf if endless else self.context

    @property
    def turning_lengths(self) -> tuple[int, ...]:
        """The lengths beyond which all positions of a row have other frequencies than up to them."""
        return self._original_lengths(LongScaling)

    @property
    def stretching_length(self) -> float:
        """The length beyond which each token that a row gets changes the frequencies of those to come."""
        return min(self._original_lengths(DynamicScaling), default=math.inf)

    def block(self, layer: int) -> Block | ParallelBlock:
        """The part that layer number `layer` is built from."""
        return self.blocks[layer % len(self.blocks)]

    def _original_lengths(self, kind: type[LongScaling | DynamicScaling]) -> tuple[int, ...]:
        """Those of one kind of scaling, in their order."""
        scalings = {getattr(block.attention.position, "scaling", None) for block in self.blocks}
        return tuple(sorted(scaling.original_length for scaling in scalings if isinstance(scaling, kind)))
