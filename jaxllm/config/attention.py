"""Configs of attention: multi-head, grouped-query and latent."""

from dataclasses import dataclass

from jaxllm.config.checks import require_one_of, require_positive
from jaxllm.config.norm import NormConfig, RMSNormConfig
from jaxllm.config.position import ALiBiConfig, RotaryConfig
from jaxllm.errors import InputError


@dataclass(frozen=True)
class QKNormConfig:
    """A norm of queries and keys (Henry et al. 2020), applied before rotary positions.

    Attributes:
      norm: the norm.
      over: "head" normalizes each head with one weight [H] for all heads, "each head" normalizes each head with a
        weight of its own [N H], "all heads" normalizes all heads of a token together with a weight [N H].
    """

    norm: NormConfig
    over: str = "head"

    def __post_init__(self) -> None:
        require_one_of("QKNormConfig.over", self.over, ("head", "each head", "all heads"))


@dataclass(frozen=True)
class AttentionConfig:
    """Attention with grouped key-value heads.

    Attributes:
      heads: number of query heads, N.
      kv_heads: number of key-value heads, K; N is a multiple of it.
      head_dim: size of a head, H.
      scale: factor of the scores.
      bias: whether the query, key and value projections have a bias.
      output_bias: whether the output projection has a bias.
      position: rotary positions or ALiBi, if there are any.
      window: a query attends to the last `window` keys only, its own included.
      chunk: a query attends to keys of its own chunk of `chunk` positions only.
      qk_norm: norm of queries and keys, if there is one.
      clip: bound of the absolute values of queries, keys and values.
      softcap: bound of the scores, applied by a tanh.
      sinks: whether each head has an attention sink: a learned score without a value (Xiao et al. 2023).
      causal: whether a query attends to no key behind its own position.
    """

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    bias: bool = False
    output_bias: bool = False
    position: RotaryConfig | ALiBiConfig | None = None
    window: int | None = None
    chunk: int | None = None
    qk_norm: QKNormConfig | None = None
    clip: float | None = None
    softcap: float | None = None
    sinks: bool = False
    causal: bool = True

    def __post_init__(self) -> None:
        require_positive(self)
        if self.heads % self.kv_heads:
            raise InputError(f"config: {self.heads} query heads cannot share {self.kv_heads} key-value heads evenly")
        if isinstance(self.position, RotaryConfig):
            self.position.validate(self.head_dim)
        if isinstance(self.position, ALiBiConfig) and len(self.position.slopes) != self.heads:
            raise InputError(
                f"config: {len(self.position.slopes)} ALiBi slopes, expected one for each of {self.heads} heads"
            )
        if not self.causal and (self.window is not None or self.chunk is not None):
            raise InputError("config: window and chunk need causal attention")


@dataclass(frozen=True)
class LatentAttentionConfig:
    """Multi-head latent attention (DeepSeek-AI 2024): keys and values are cached as one small vector per token.

    Attributes:
      heads: number of heads, N.
      nope_dim: dimensions of a head's query and key without positions.
      rope_dim: dimensions of a head's query and key with rotary positions; all heads share this part of the key.
      value_dim: size of a head's value, V.
      kv_lora_rank: size of the latent from which keys and values are computed.
      q_lora_rank: size of the latent from which queries are computed; None if there is none.
      norm: norm of the latents.
      scale: factor of the scores.
      position: the rotary positions.
      bias: whether the projections to the latents and the output projection have a bias.
    """

    heads: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    kv_lora_rank: int
    q_lora_rank: int | None
    norm: RMSNormConfig
    scale: float
    position: RotaryConfig
    bias: bool = False

    def __post_init__(self) -> None:
        require_positive(self)
        self.position.validate(self.rope_dim)
