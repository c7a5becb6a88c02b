"""OLMo 1: Llama with non-parametric layer norms and clipped queries, keys and values."""

from conversion.architectures.llama import TABLE
from conversion.builders import ConfigReader, Sizes, decoder, gated_feed_forward, rotary
from jaxllm.config import BlockConfig, DecoderConfig, LayerNormConfig

__all__ = ["TABLE", "from_hf"]


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `OlmoConfig`; defaults are those of Transformers."""
    sizes = Sizes.of(reader)
    norm = LayerNormConfig(1e-5, scale=False, bias=False)
    position, context = rotary(reader, reader.size("max_position_embeddings", 2048), sizes.head_dim)
    bias = reader.flag("attention_bias", False)
    attention = sizes.attention(position, bias=bias, output_bias=bias, clip=reader.number_or_none("clip_qkv"))
    block = BlockConfig(attention, gated_feed_forward(reader, 11008), pre_norm=norm)
    return decoder(reader, sizes, [block], norm, context, vocab_size=50304, eos=50279)
