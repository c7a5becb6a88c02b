"""Helium 1: a Llama whose rotary pairs are neighbours."""

from conversion.architectures.llama import TABLE
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.sizes import Sizes, decoder, gated, rms_norm
from jaxllm import config

__all__ = ["TABLE", "from_hf"]


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `HeliumConfig`'s keys; defaults are Transformers'."""
    sizes, norm = Sizes.of(keys, 2560, 24, 20, kv_heads=20, head_dim=128), rms_norm(keys, 1e-8)
    length = keys.size("max_position_embeddings", 4096)
    position, context = rotary(keys, length, sizes.head_dim, theta=100_000.0, interleaved=True)
    attention = sizes.attention(position, bias=keys.flag("attention_bias", False))
    block = config.Block(norm, attention, gated(keys, 7040, bias=keys.flag("mlp_bias", False)))
    return decoder(keys, sizes, [block], norm, context, vocab_size=48000, eos=2)
