"""OLMo 3: an OLMo 2 with three layers that slide to one that does not, whose rotary positions alone are scaled."""

from conversion.architectures.olmo2 import TABLE
from conversion.keys import Keys
from conversion.rotary import rotary_by_layer_type
from conversion.sizes import FULL, SLIDING, Sizes, decoder, gated, rms_norm, windows
from jaxllm import config

__all__ = ["TABLE", "from_hf"]

_THETA = 500_000.0


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `Olmo3Config`'s keys; defaults are Transformers'."""
    keys.neutral("rope_theta", (_THETA, None))  # its versions differ in whether another is for both kinds of layer
    sizes, norm, feed_forward = Sizes.of(keys), rms_norm(keys, 1e-5), gated(keys, 11008)
    context = keys.size("max_position_embeddings", 2048)
    positions, context = rotary_by_layer_type(keys, context, sizes.head_dim, {FULL: _THETA, SLIDING: _THETA})
    bias, head_norm = keys.flag("attention_bias", False), config.HeadNorm(norm, "all heads")
    attention = [
        sizes.attention(
            positions[SLIDING if window else FULL], bias=bias, output_bias=bias, window=window, head_norm=head_norm
        )
        for window in windows(
            keys, sizes.layers, keys.size_or_none("sliding_window", 4096), (SLIDING, SLIDING, SLIDING, FULL)
        )
    ]
    blocks = [config.Block(norm, each, feed_forward, "output") for each in attention]
    return decoder(keys, sizes, blocks, norm, context, vocab_size=50304, eos=50279)
