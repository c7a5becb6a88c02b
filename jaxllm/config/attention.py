"""Attention, of the usual kind and latent."""

from dataclasses import dataclass

from jaxllm.config.checks import one_of, positive
from jaxllm.config.norm import Norm, RMSNorm
from jaxllm.config.position import Alibi, Rotary
from jaxllm.errors import InputError


@dataclass(frozen=True)
class HeadNorm:
    """A norm of queries and keys (Henry et al. 2020), before their positions are put in.

    `over` is "head" (each head by itself, one weight [H] for all), "each head" (the same, a weight for each) or
    "all heads" (all heads of a token together, a weight for each).
    """

    norm: Norm
    over: str = "head"

    def __post_init__(self) -> None:
        one_of("HeadNorm.over", self.over, ("head", "each head", "all heads"))


@dataclass(frozen=True)
class Attention:
    """Causal self-attention with grouped key-value heads.

    A query sees the last `window` keys, itself included, and only keys of its own `chunk`, where these are given.
    `clip` bounds queries, keys and values; `softcap` bounds scores by a tanh; `sinks` adds a score per head that
    takes weight and gives nothing (Xiao et al. 2023).
    """

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    bias: bool = False
    output_bias: bool = False
    position: Rotary | Alibi | None = None
    window: int | None = None
    chunk: int | None = None
    head_norm: HeadNorm | None = None
    clip: float | None = None
    softcap: float | None = None
    sinks: bool = False

    def __post_init__(self) -> None:
        positive(self)
        if self.heads % self.kv_heads:
            raise InputError(f"config: {self.heads} query heads cannot share {self.kv_heads} key-value heads evenly")
        if isinstance(self.position, Rotary):
            self.position.check(self.head_dim)
        if isinstance(self.position, Alibi) and len(self.position.slopes) != self.heads:
            raise InputError(f"config: {len(self.position.slopes)} slopes for {self.heads} heads")


@dataclass(frozen=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-AI 2024): keys and values are cached as one small vector per token.

    A head has `nope_dim` dimensions without and `rope_dim` with a position, the latter's key shared by all heads.
    """

    heads: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    latent_dim: int
    query_latent_dim: int | None
    norm: RMSNorm
    scale: float
    position: Rotary
    bias: bool = False

    def __post_init__(self) -> None:
        positive(self)
        self.position.check(self.rope_dim)
