"""Mistral 7B and its derivatives: Llama with an optional sliding window."""

from conversion.architectures.llama import TABLE
from conversion.builders import ConfigReader, Sizes, decoder, gated_feed_forward, rms_norm, rotary
from jaxllm.config import BlockConfig, DecoderConfig

__all__ = ["TABLE", "from_hf"]


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `MistralConfig`; defaults are those of Transformers."""
    for bias in ("attention_bias", "mlp_bias"):
        reader.neutral(bias, (False, None))
    sizes = Sizes.of(reader, kv_heads=8)
    norm = rms_norm(reader)
    position, context = rotary(reader, reader.size("max_position_embeddings", 131072), sizes.head_dim)
    attention = sizes.attention(position, window=reader.size_or_none("sliding_window", 4096))
    block = BlockConfig(attention, gated_feed_forward(reader, 14336), pre_norm=norm)
    return decoder(reader, sizes, [block], norm, context, vocab_size=32000, eos=2)
