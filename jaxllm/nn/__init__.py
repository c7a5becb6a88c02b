"""The components of transformers, each a Flax NNX module that is built from its config.

Importing this package registers every component with `jaxllm.nn.parameter.build`.
"""

from jaxllm.nn import (
    attention,
    block,
    cross_attention,
    embedding,
    feed_forward,
    latent_attention,
    mixture_of_experts,
    norm,
    position,
)

__all__ = [
    "attention",
    "block",
    "cross_attention",
    "embedding",
    "feed_forward",
    "latent_attention",
    "mixture_of_experts",
    "norm",
    "position",
]
