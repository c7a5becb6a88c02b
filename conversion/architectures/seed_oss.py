"""Seed-OSS: Llama with biases on queries, keys and values, and a head dimension independent of the width."""

from conversion.architectures.llama import TABLE
from conversion.builders import ConfigReader, Sizes, decoder, gated_feed_forward, rms_norm, rotary
from jaxllm.config import BlockConfig, DecoderConfig

__all__ = ["TABLE", "from_hf"]


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `SeedOssConfig`; defaults are those of Transformers."""
    sizes = Sizes.of(reader, layers=64, heads=80, kv_heads=8, head_dim=128)
    norm = rms_norm(reader)
    position, context = rotary(reader, reader.size("max_position_embeddings", 524288), sizes.head_dim)
    bias = reader.flag("attention_bias", True)
    output_bias = reader.flag("attention_out_bias", False)
    attention = sizes.attention(position, bias=bias, output_bias=output_bias)
    block = BlockConfig(
        attention, gated_feed_forward(reader, 27648, bias=reader.flag("mlp_bias", False)), pre_norm=norm
    )
    return decoder(reader, sizes, [block], norm, context, vocab_size=155136, eos=2)
