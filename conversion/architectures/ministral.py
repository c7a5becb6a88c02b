"""Ministral 8B: a Mistral in which layers with and without a window may alternate."""

from conversion.architectures.llama import TABLE
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.sizes import FULL, SLIDING, Sizes, decoder, gated, rms_norm, windows
from jaxllm import config

__all__ = ["TABLE", "from_hf"]


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `MinistralConfig`'s keys; defaults are Transformers'."""
    for bias in ("attention_bias", "mlp_bias"):
        keys.neutral(bias, (False, None))
    sizes, norm, feed_forward = Sizes.of(keys, kv_heads=8), rms_norm(keys), gated(keys, 14336)
    position, context = rotary(keys, keys.size("max_position_embeddings", 131072), sizes.head_dim)
    window = keys.size_or_none("sliding_window", 4096)
    blocks = [
        config.Block(norm, sizes.attention(position, window=each), feed_forward)
        for each in windows(keys, sizes.layers, window, [SLIDING if window else FULL])
    ]
    return decoder(keys, sizes, blocks, norm, context, vocab_size=32000, eos=2)
