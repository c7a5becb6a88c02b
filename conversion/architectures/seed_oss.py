"""Seed-OSS: a Llama with more heads than fit its width, and biases on queries, keys and values."""

from conversion.architectures.llama import TABLE
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.sizes import Sizes, decoder, gated, rms_norm
from jaxllm import config

__all__ = ["TABLE", "from_hf"]


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `SeedOssConfig`'s keys; defaults are Transformers'."""
    sizes, norm = Sizes.of(keys, layers=64, heads=80, kv_heads=8, head_dim=128), rms_norm(keys)
    position, context = rotary(keys, keys.size("max_position_embeddings", 524288), sizes.head_dim)
    bias, output_bias = keys.flag("attention_bias", True), keys.flag("attention_out_bias", False)
    attention = sizes.attention(position, bias=bias, output_bias=output_bias)
    block = config.Block(norm, attention, gated(keys, 27648, bias=keys.flag("mlp_bias", False)))
    return decoder(keys, sizes, [block], norm, context, vocab_size=155136, eos=2)
