"""A model that copies, with weights set by hand: what followed a token before follows it again (Olsson et al. 2022)."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.config import (
    AttentionConfig,
    BlockConfig,
    DecoderConfig,
    FeedForwardConfig,
    RMSNormConfig,
    RotaryConfig,
    StackConfig,
)
from jaxllm.models.abstract import abstract
from jaxllm.models.decoder import Decoder
from jaxllm.nn.parameter import named_parameters, replace_parameters

SIZE = 128  # of a token's code, random signs
NORM = RMSNormConfig(1e-5)
NOTHING = FeedForwardConfig(1, "relu", gated=False)


def induction(vocab_size: int, window: int, context: int) -> Decoder:
    """Two layers over three codes, of a token, of the one before it, and of the one to come.

    The first layer's head attends to the position before, by its rotation alone: a key is turned by one position more
    than where it stands. The second's, to where that one was the token that is now, and no further than its window.
    """
    before = AttentionConfig(1, 1, SIZE, scale=20.0, bias=True, position=RotaryConfig())
    matching = AttentionConfig(1, 1, SIZE, scale=1.0, bias=True, window=window)
    blocks = tuple(BlockConfig(heads, NOTHING, pre_norm=NORM) for heads in (before, matching))
    model = abstract(DecoderConfig(vocab_size, 3 * SIZE, StackConfig(2, blocks), NORM, context))
    arrays = {name: np.zeros(parameter.shape, "float32") for name, parameter in named_parameters(model)}
    for name, array in arrays.items():
        if name.endswith("norm.weight"):
            array += 1
    codes = np.random.default_rng(0).choice([-1.0, 1.0], (vocab_size, SIZE))
    this, previous, coming = (slice(i * SIZE, (i + 1) * SIZE) for i in range(3))
    arrays["embedding.weight"][:, this] = arrays["head.weight"][:, coming] = codes
    angles = 10_000.0 ** -(np.arange(SIZE // 2) / (SIZE // 2))
    first, second = ("layers.0.attention.", "layers.1.attention.")
    arrays[f"{first}query.bias"][0, : SIZE // 2] = 1
    arrays[f"{first}key.bias"][0] = np.concatenate([np.cos(angles), np.sin(angles)])
    for name, part in (
        (f"{first}value", this),
        (f"{first}output", previous),
        (f"{second}query", this),
        (f"{second}key", previous),
        (f"{second}value", this),
        (f"{second}output", coming),
    ):
        weight = arrays[f"{name}.weight"].squeeze()  # a view, with one head [H D], or [D H]
        (weight[part] if name.endswith("output") else weight[:, part])[:] = np.eye(SIZE)
    return replace_parameters(model, jax.tree.map(jnp.asarray, arrays))
