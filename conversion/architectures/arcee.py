"""Arcee AFM: Llama with an ungated feed-forward network and squared ReLU."""

from conversion.architectures.llama import TABLE
from conversion.builders import ACTIVATIONS, ConfigReader, Sizes, decoder, rms_norm, rotary
from jaxllm.config import BlockConfig, DecoderConfig, FeedForwardConfig

__all__ = ["TABLE", "from_hf"]


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `ArceeConfig`; defaults are those of Transformers."""
    sizes = Sizes.of(reader, 2560)
    norm = rms_norm(reader, 1e-5)
    position, context = rotary(reader, reader.size("max_position_embeddings", 4096), sizes.head_dim)
    bias = reader.flag("attention_bias", False)
    attention = sizes.attention(position, bias=bias, output_bias=bias)
    hidden = reader.size("intermediate_size", 18432)
    activation = reader.choice("hidden_act", ACTIVATIONS, "relu2")
    feed_forward = FeedForwardConfig(hidden, activation, gated=False, bias=reader.flag("mlp_bias", False))
    block = BlockConfig(attention, feed_forward, pre_norm=norm)
    return decoder(reader, sizes, [block], norm, context, vocab_size=32000, eos=128001)
