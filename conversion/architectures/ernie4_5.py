"""ERNIE 4.5 (dense): Llama with interleaved rotary embeddings."""

from conversion.architectures.llama import TABLE
from conversion.builders import ConfigReader, Sizes, decoder, gated_feed_forward, rms_norm, rotary
from jaxllm.config import BlockConfig, DecoderConfig

__all__ = ["CLASS", "TABLE", "from_hf"]

CLASS = "Ernie4_5ForCausalLM"


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `Ernie4_5Config`; defaults are those of Transformers."""
    reader.neutral("compression_ratio", (1, None))
    sizes = Sizes.of(reader, dim=1024, layers=18, heads=16, kv_heads=2, head_dim=128)
    norm = rms_norm(reader, 1e-5)
    length = reader.size("max_position_embeddings", 131072)
    position, context = rotary(reader, length, sizes.head_dim, theta=500_000.0, interleaved=True)
    bias = reader.flag("use_bias", False)
    attention = sizes.attention(position, bias=bias, output_bias=bias)
    block = BlockConfig(attention, gated_feed_forward(reader, 3072, bias=bias), pre_norm=norm)
    return decoder(reader, sizes, [block], norm, context, vocab_size=103424, tied=True, eos=2)
