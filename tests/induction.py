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

CODE_DIM = 128  # of a token's code, random signs
NORM = RMSNormConfig(1e-5)
UNUSED_FEED_FORWARD = FeedForwardConfig(1, "relu", gated=False)


def induction_model(vocab_size: int, window: int, max_position_embeddings: int) -> Decoder:
    """Two layers over three codes, of a token, of the one before it, and of the one to come.

    The first layer's head attends to the position before, by its rotation alone: a key is turned by one position more
    than where it stands. The second's, to where that one was the token that is now, and no further than its window.
    """
    previous_token_head = AttentionConfig(1, 1, CODE_DIM, scale=20.0, bias=True, position=RotaryConfig())
    induction_head = AttentionConfig(1, 1, CODE_DIM, scale=1.0, bias=True, window=window)
    blocks = tuple(
        BlockConfig(heads, UNUSED_FEED_FORWARD, pre_norm=NORM) for heads in (previous_token_head, induction_head)
    )
    model = abstract(DecoderConfig(vocab_size, 3 * CODE_DIM, StackConfig(2, blocks), NORM, max_position_embeddings))
    arrays = {name: np.zeros(parameter.shape, "float32") for name, parameter in named_parameters(model)}
    for name, array in arrays.items():
        if name.endswith("norm.weight"):
            array += 1
    codes = np.random.default_rng(0).choice([-1.0, 1.0], (vocab_size, CODE_DIM))
    current, previous, following = (slice(i * CODE_DIM, (i + 1) * CODE_DIM) for i in range(3))
    arrays["embedding.weight"][:, current] = arrays["head.weight"][:, following] = codes
    angles = 10_000.0 ** -(np.arange(CODE_DIM // 2) / (CODE_DIM // 2))
    first, second = ("layers.0.attention.", "layers.1.attention.")
    arrays[f"{first}query.bias"][0, : CODE_DIM // 2] = 1
    arrays[f"{first}key.bias"][0] = np.concatenate([np.cos(angles), np.sin(angles)])
    for name, code in (
        (f"{first}value", current),
        (f"{first}output", previous),
        (f"{second}query", current),
        (f"{second}key", previous),
        (f"{second}value", current),
        (f"{second}output", following),
    ):
        weight = arrays[f"{name}.weight"].squeeze()  # a view, with one head [H D], or [D H]
        (weight[code] if name.endswith("output") else weight[:, code])[:] = np.eye(CODE_DIM)
    return replace_parameters(model, jax.tree.map(jnp.asarray, arrays))
