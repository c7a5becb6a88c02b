"""What a transformer is made of: one frozen dataclass per part, free of names, arrays and architectures.

A model is a `Decoder`, which holds parts, which hold parts. Every mechanism has a dataclass of its own here and
one module in `jaxllm.nn` that is built from it; `to_json` and `from_json` write and read any of them.
"""

from jaxllm.config.attention import Attention, HeadNorm, LatentAttention
from jaxllm.config.feed_forward import ClippedSwiglu, FeedForward, Mixture, Router
from jaxllm.config.json import from_json, to_json
from jaxllm.config.model import MAX_LAYERS, Block, Decoder, ParallelBlock
from jaxllm.config.norm import LayerNorm, Norm, RMSNorm
from jaxllm.config.position import (
    Alibi,
    DynamicScaling,
    LearnedPosition,
    LinearScaling,
    Llama3Scaling,
    LongScaling,
    Rotary,
    YarnScaling,
)

__all__ = [
    "MAX_LAYERS",
    "Alibi",
    "Attention",
    "Block",
    "ClippedSwiglu",
    "Decoder",
    "DynamicScaling",
    "FeedForward",
    "HeadNorm",
    "LatentAttention",
    "LayerNorm",
    "LearnedPosition",
    "LinearScaling",
    "Llama3Scaling",
    "LongScaling",
    "Mixture",
    "Norm",
    "ParallelBlock",
    "RMSNorm",
    "Rotary",
    "Router",
    "YarnScaling",
    "from_json",
    "to_json",
]
