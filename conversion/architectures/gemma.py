"""Gemma 1: Llama with GELU, norm weights stored minus one, and a scaled embedding tied to the head."""

from conversion.architectures.llama import TABLE
from conversion.builders import ACTIVATIONS, ConfigReader, Sizes, decoder, rms_norm, rotary
from jaxllm.config import BlockConfig, DecoderConfig, FeedForwardConfig

__all__ = ["TABLE", "causal_only", "feed_forward", "from_hf"]

_MEANT = ACTIVATIONS | {"gelu": "gelu_tanh"}  # in configs of old, whatever the name says


def causal_only(reader: ConfigReader) -> None:
    """Refuses the variants that encode texts, which look ahead."""
    reader.neutral("use_bidirectional_attention", (False, None))


def feed_forward(
    reader: ConfigReader, hidden: int, name: str, other: str, options: dict[str, str]
) -> FeedForwardConfig:
    """Builds the gated network. If two keys name the activation, they must agree."""
    activation = reader.choice(name, options, "gelu_pytorch_tanh")
    reader.neutral(other, (None, *(theirs for theirs, ours in ACTIVATIONS.items() if ours == activation)))
    return FeedForwardConfig(reader.size("intermediate_size", hidden), activation, gated=True)


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `GemmaConfig`; defaults are those of Transformers."""
    causal_only(reader)
    sizes = Sizes.of(reader, 3072, 28, 16, kv_heads=16, head_dim=256)
    norm = rms_norm(reader, offset=1.0)
    position, context = rotary(reader, reader.size("max_position_embeddings", 8192), sizes.head_dim)
    bias = reader.flag("attention_bias", False)
    attention = sizes.attention(position, bias=bias, output_bias=bias)
    block = BlockConfig(
        attention, feed_forward(reader, 24576, "hidden_act", "hidden_activation", _MEANT), pre_norm=norm
    )
    scale = sizes.dim**0.5
    return decoder(reader, sizes, [block], norm, context, vocab_size=256000, tied=True, eos=1, embed_scale=scale)
