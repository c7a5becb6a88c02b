"""Granite 3: Llama with multipliers on the embedding, the attention scores, the residual branches and the logits."""

from conversion.architectures.llama import TABLE
from conversion.builders import ConfigReader, Sizes, decoder, gated_feed_forward, rms_norm, rotary
from jaxllm.config import BlockConfig, DecoderConfig, FeedForwardConfig, MixtureOfExpertsConfig

__all__ = ["TABLE", "decoder_of", "from_hf"]


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `GraniteConfig`; defaults are those of Transformers."""
    return decoder_of(reader, gated_feed_forward(reader, 11008, bias=reader.flag("mlp_bias", False)))


def decoder_of(reader: ConfigReader, feed_forward: FeedForwardConfig | MixtureOfExpertsConfig) -> DecoderConfig:
    """Builds the decoder with the given feed-forward network."""
    names = ("embedding_multiplier", "residual_multiplier", "logits_scaling")
    embed, residual, logits = (float(reader.number(name, 1.0)) for name in names)
    scale = reader.number_or_none("attention_multiplier", 1.0)
    sizes = Sizes.of(reader)
    norm = rms_norm(reader)
    position, context = rotary(reader, reader.size("max_position_embeddings", 2048), sizes.head_dim)
    bias = reader.flag("attention_bias", False)
    scale = float(scale or sizes.head_dim**-0.5)  # null leaves it to PyTorch
    attention = sizes.attention(position, scale=scale, bias=bias, output_bias=bias)
    block = BlockConfig(attention, feed_forward, pre_norm=norm, residual_scale=residual)
    return decoder(
        reader, sizes, [block], norm, context, vocab_size=32000, eos=2, embed_scale=embed, logit_scale=1 / logits
    )
