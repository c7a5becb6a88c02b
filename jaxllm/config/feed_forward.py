"""Configs of feed-forward networks and mixtures of experts."""

from dataclasses import dataclass

from jaxllm.config.checks import require_one_of, require_positive
from jaxllm.errors import InputError


@dataclass(frozen=True)
class ClippedSwiGLUConfig:
    """The activation `(up + 1) * gate * sigmoid(alpha * gate)` of gpt-oss, with gate and up clipped by `limit`."""

    alpha: float
    limit: float


@dataclass(frozen=True)
class FeedForwardConfig:
    """A feed-forward network: `down(act(up x))`, or `down(act(gate x) * up x)` if it is gated (Shazeer 2020).

    Attributes:
      hidden: number of hidden units, F.
      activation: name of the activation (`jaxllm.nn.feed_forward.ACTIVATIONS`), or a config of one.
      gated: whether it has a gate.
      bias: whether its linear maps have a bias.
    """

    hidden: int
    activation: str | ClippedSwiGLUConfig
    gated: bool
    bias: bool = False

    def __post_init__(self) -> None:
        require_positive(self)


@dataclass(frozen=True)
class RouterConfig:
    """Selects the experts of each token by scores that a linear map computes.

    Attributes:
      num_experts: number of experts, E.
      num_experts_per_tok: number of experts of each token, k.
      score_function: "softmax" or "sigmoid".
      norm_topk_prob: whether the selected scores are divided by their sum.
      routed_scaling_factor: factor of the selected scores.
      bias: whether the linear map has a bias.
      score_correction_bias: whether a learned bias is added to the scores for selection only.
      n_group: number of groups of experts (DeepSeek-AI 2024).
      topk_group: number of groups that experts are selected from.
      topk_within_group: number of best scores whose sum ranks a group.
    """

    num_experts: int
    num_experts_per_tok: int
    score_function: str = "softmax"
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    bias: bool = False
    score_correction_bias: bool = False
    n_group: int = 1
    topk_group: int = 1
    topk_within_group: int = 2

    def __post_init__(self) -> None:
        require_one_of("Router.score", self.score_function, ("softmax", "sigmoid"))
        if not 1 <= self.topk_group <= self.n_group or self.num_experts % self.n_group:
            raise InputError(
                f"config: {self.topk_group} of {self.n_group} groups of {self.num_experts} experts: impossible"
            )
        if not 1 <= self.topk_within_group <= self.num_experts // self.n_group and self.n_group > 1:
            raise InputError(
                f"config: {self.topk_within_group} best of {self.num_experts // self.n_group} experts: impossible"
            )
        if not 1 <= self.num_experts_per_tok <= self.num_experts // self.n_group * self.topk_group:
            raise InputError(
                f"config: {self.num_experts_per_tok} of {self.num_experts} experts for each token: impossible"
            )


@dataclass(frozen=True)
class MixtureOfExpertsConfig:
    """A mixture of experts (Shazeer et al. 2017).

    Attributes:
      router: selects the experts of each token.
      expert: the feed-forward network of each expert.
      shared_expert: a feed-forward network that processes every token, if there is one.
      shared_expert_gate: whether a learned gate scales the shared expert's output.
    """

    router: RouterConfig
    expert: FeedForwardConfig
    shared_expert: FeedForwardConfig | None = None
    shared_expert_gate: bool = False
