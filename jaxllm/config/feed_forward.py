"""Feed-forward networks and mixtures of them."""

from dataclasses import dataclass

from jaxllm.config.checks import one_of, positive
from jaxllm.errors import InputError


@dataclass(frozen=True)
class ClippedSwiglu:
    """`(up + 1) * gate * sigmoid(alpha * gate)`, gate at most `limit`, up within it (gpt-oss)."""

    alpha: float
    limit: float


@dataclass(frozen=True)
class FeedForward:
    """`down(act(up x))`, or `down(act(gate x) * up x)` when gated (Shazeer 2020)."""

    hidden: int
    activation: str | ClippedSwiglu
    gated: bool
    bias: bool = False

    def __post_init__(self) -> None:
        positive(self)


@dataclass(frozen=True)
class Router:
    """Which `per_token` of the experts a token goes to, by `score` ("softmax" or "sigmoid") of a linear map.

    Weights are the scores, divided by their sum if `normalize`, times `scale`. `correction` adds a learned number
    to each score for the choice alone; the choice is among the best `kept_groups` of `groups` (DeepSeek-AI 2024), by
    the sum of their `group_best` best scores.
    """

    experts: int
    per_token: int
    score: str = "softmax"
    normalize: bool = True
    scale: float = 1.0
    bias: bool = False
    correction: bool = False
    groups: int = 1
    kept_groups: int = 1
    group_best: int = 2

    def __post_init__(self) -> None:
        one_of("Router.score", self.score, ("softmax", "sigmoid"))
        if not 1 <= self.kept_groups <= self.groups or self.experts % self.groups:
            raise InputError(
                f"config: {self.kept_groups} of {self.groups} groups of {self.experts} experts: impossible"
            )
        if not 1 <= self.group_best <= self.experts // self.groups and self.groups > 1:
            raise InputError(f"config: {self.group_best} best of {self.experts // self.groups} experts: impossible")
        if not 1 <= self.per_token <= self.experts // self.groups * self.kept_groups:
            raise InputError(f"config: {self.per_token} of {self.experts} experts for each token: impossible")


@dataclass(frozen=True)
class Mixture:
    """A mixture of experts (Shazeer et al. 2017), beside one that sees every token; `shared_gate` weighs the latter."""

    router: Router
    expert: FeedForward
    shared: FeedForward | None = None
    shared_gate: bool = False
