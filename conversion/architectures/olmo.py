"""OLMo 1: a Llama with layer norms that have neither weight nor bias, and clipped queries, keys and values."""

from conversion.architectures.llama import TABLE
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.sizes import Sizes, decoder, gated
from jaxllm import config

__all__ = ["TABLE", "from_hf"]


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `OlmoConfig`'s keys; defaults are Transformers'."""
    sizes, norm = Sizes.of(keys), config.LayerNorm(1e-5, scale=False, bias=False)
    position, context = rotary(keys, keys.size("max_position_embeddings", 2048), sizes.head_dim)
    bias = keys.flag("attention_bias", False)
    attention = sizes.attention(position, bias=bias, output_bias=bias, clip=keys.number_or_none("clip_qkv"))
    block = config.Block(norm, attention, gated(keys, 11008))
    return decoder(keys, sizes, [block], norm, context, vocab_size=50304, eos=50279)
