"""Ministral 8B: Mistral with optional alternation of layers with and without a window."""

from conversion.architectures.llama import TABLE
from conversion.builders import ConfigReader, Sizes, decoder, gated_feed_forward, rms_norm, rotary, windows_from
from jaxllm.config import BlockConfig, DecoderConfig

__all__ = ["TABLE", "from_hf"]


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `MinistralConfig`; defaults are those of Transformers."""
    for bias in ("attention_bias", "mlp_bias"):
        reader.neutral(bias, (False, None))
    sizes = Sizes.of(reader, kv_heads=8)
    norm = rms_norm(reader)
    feed_forward = gated_feed_forward(reader, 14336)
    position, context = rotary(reader, reader.size("max_position_embeddings", 131072), sizes.head_dim)
    window = reader.size_or_none("sliding_window", 4096)
    blocks = [
        BlockConfig(sizes.attention(position, window=each), feed_forward, pre_norm=norm)
        for each in windows_from(reader, sizes.layers, window, 0)
    ]
    return decoder(reader, sizes, blocks, norm, context, vocab_size=32000, eos=2)
