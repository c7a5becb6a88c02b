"""Mistral 7B and its kin: a Llama whose attention may slide over a window."""

from conversion.architectures.llama import TABLE
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.sizes import Sizes, decoder, gated, rms_norm
from jaxllm import config

__all__ = ["TABLE", "from_hf"]


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `MistralConfig`'s keys; defaults are Transformers'."""
    for bias in ("attention_bias", "mlp_bias"):
        keys.neutral(bias, (False, None))
    sizes, norm = Sizes.of(keys, kv_heads=8), rms_norm(keys)
    position, context = rotary(keys, keys.size("max_position_embeddings", 131072), sizes.head_dim)
    attention = sizes.attention(position, window=keys.size_or_none("sliding_window", 4096))
    block = config.Block(norm, attention, gated(keys, 14336))
    return decoder(keys, sizes, [block], norm, context, vocab_size=32000, eos=2)
