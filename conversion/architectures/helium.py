"""Helium 1: Llama with interleaved rotary embeddings."""

from conversion.architectures.llama import TABLE
from conversion.builders import ConfigReader, Sizes, decoder, gated_feed_forward, rms_norm, rotary
from jaxllm.config import BlockConfig, DecoderConfig

__all__ = ["TABLE", "from_hf"]


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `HeliumConfig`; defaults are those of Transformers."""
    sizes = Sizes.of(reader, 2560, 24, 20, kv_heads=20, head_dim=128)
    norm = rms_norm(reader, 1e-8)
    length = reader.size("max_position_embeddings", 4096)
    position, context = rotary(reader, length, sizes.head_dim, theta=100_000.0, interleaved=True)
    attention = sizes.attention(position, bias=reader.flag("attention_bias", False))
    block = BlockConfig(attention, gated_feed_forward(reader, 7040, bias=reader.flag("mlp_bias", False)), pre_norm=norm)
    return decoder(reader, sizes, [block], norm, context, vocab_size=48000, eos=2)
