"""The parts that transformers are put together from, each a Flax NNX module built from its config dataclass.

Importing the package makes every part known to `jaxllm.nn.parameter.build`.
"""

from jaxllm.nn import attention, block, embedding, feed_forward, latent_attention, mixture, norm, position

__all__ = ["attention", "block", "embedding", "feed_forward", "latent_attention", "mixture", "norm", "position"]
