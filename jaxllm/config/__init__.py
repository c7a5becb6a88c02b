"""What a model consists of: one frozen dataclass for each component, without names of weights or arrays.

A `ModelConfig` has layer stacks and norms, which have configs of their own. Each config class belongs to one module in
`jaxllm.nn` or `jaxllm.models`. `to_json` and `from_json` write and read any of them.
"""

from jaxllm.config.attention import AttentionConfig, LatentAttentionConfig, QKNormConfig
from jaxllm.config.block import BlockConfig, CrossAttentionBlockConfig, LayerConfig, ParallelBlockConfig
from jaxllm.config.feed_forward import ClippedSwiGLUConfig, FeedForwardConfig, MixtureOfExpertsConfig, RouterConfig
from jaxllm.config.json import from_json, to_json
from jaxllm.config.model import MAX_LAYERS, DecoderConfig, EncoderConfig, EncoderDecoderConfig, ModelConfig, StackConfig
from jaxllm.config.norm import LayerNormConfig, NormConfig, RMSNormConfig
from jaxllm.config.position import (
    ALiBiConfig,
    DynamicNTKScalingConfig,
    LearnedPositionConfig,
    LinearScalingConfig,
    Llama3ScalingConfig,
    LongRoPEScalingConfig,
    RotaryConfig,
    YarnScalingConfig,
)

__all__ = [
    "MAX_LAYERS",
    "ALiBiConfig",
    "AttentionConfig",
    "BlockConfig",
    "ClippedSwiGLUConfig",
    "CrossAttentionBlockConfig",
    "DecoderConfig",
    "DynamicNTKScalingConfig",
    "EncoderConfig",
    "EncoderDecoderConfig",
    "FeedForwardConfig",
    "LatentAttentionConfig",
    "LayerConfig",
    "LayerNormConfig",
    "LearnedPositionConfig",
    "LinearScalingConfig",
    "Llama3ScalingConfig",
    "LongRoPEScalingConfig",
    "MixtureOfExpertsConfig",
    "ModelConfig",
    "NormConfig",
    "ParallelBlockConfig",
    "QKNormConfig",
    "RMSNormConfig",
    "RotaryConfig",
    "RouterConfig",
    "StackConfig",
    "YarnScalingConfig",
    "from_json",
    "to_json",
]
