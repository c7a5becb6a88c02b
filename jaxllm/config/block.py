"""Configs of layers: how attention and feed-forward are joined to the residual stream."""

from dataclasses import dataclass, field

from jaxllm.config.attention import AttentionConfig, LatentAttentionConfig
from jaxllm.config.feed_forward import FeedForwardConfig, MixtureOfExpertsConfig
from jaxllm.config.norm import NormConfig


@dataclass(frozen=True)
class BlockConfig:
    """A layer of two residual branches: attention, then feed-forward.

    Each branch f computes `post_norm(x + residual_scale * output_norm(f(pre_norm(x))))`; a norm that is None is left
    out. A pre-norm layer has only `pre_norm`, a post-norm layer only `post_norm`, a sandwich-norm layer `pre_norm` and
    `output_norm`.

    Attributes:
      attention: the self-attention.
      feed_forward: the feed-forward network.
      pre_norm: norm of each branch's input.
      output_norm: norm of each branch's output.
      post_norm: norm of the residual stream after each branch.
      residual_scale: factor that a branch's output is multiplied by.
    """

    attention: AttentionConfig | LatentAttentionConfig
    feed_forward: FeedForwardConfig | MixtureOfExpertsConfig
    pre_norm: NormConfig | None = None
    output_norm: NormConfig | None = None
    post_norm: NormConfig | None = None
    residual_scale: float = 1.0


@dataclass(frozen=True)
class CrossAttentionBlockConfig(BlockConfig):
    """A layer of three residual branches: attention, cross-attention to an encoder's output, feed-forward.

    Attributes:
      cross_attention: the cross-attention. It is not causal.
    """

    cross_attention: AttentionConfig = field(kw_only=True)


@dataclass(frozen=True)
class ParallelBlockConfig:
    """A layer that computes `x + attention(norm(x)) + feed_forward(norm(x))` (Wang & Komatsuzaki 2021).

    Attributes:
      attention: the self-attention.
      feed_forward: the feed-forward network.
      pre_norm: norm of a branch's input.
      shared_norm: whether both branches use the same norm, or one each.
    """

    attention: AttentionConfig
    feed_forward: FeedForwardConfig | MixtureOfExpertsConfig
    pre_norm: NormConfig
    shared_norm: bool = True


LayerConfig = BlockConfig | CrossAttentionBlockConfig | ParallelBlockConfig
