"""Gemma 2: Gemma with sandwich norms, soft caps on scores and logits, and a window in every other layer."""

from typing import Any

from conversion.architectures.gemma import causal_only, feed_forward
from conversion.architectures.llama import ATTENTION, EMBEDDING, EMBEDDING_AND_HEAD, FEED_FORWARD, IGNORED
from conversion.builders import ACTIVATIONS, FULL, SLIDING, ConfigReader, Sizes, decoder, rms_norm, rotary, windows
from conversion.table import TableRow, WeightTable
from jaxllm.config import BlockConfig, DecoderConfig, FeedForwardConfig

_LAYER = "layers.{i}."
_THEIRS = "model.layers.{i}."

SANDWICH_NORMS = (
    TableRow(_LAYER + "attention_norm.weight", _THEIRS + "input_layernorm.weight", "d -> d"),
    TableRow(_LAYER + "attention_output_norm.weight", _THEIRS + "post_attention_layernorm.weight", "d -> d"),
    TableRow(_LAYER + "feed_forward_norm.weight", _THEIRS + "pre_feedforward_layernorm.weight", "d -> d"),
    TableRow(_LAYER + "feed_forward_output_norm.weight", _THEIRS + "post_feedforward_layernorm.weight", "d -> d"),
)

TABLE = WeightTable(EMBEDDING_AND_HEAD + SANDWICH_NORMS + ATTENTION + FEED_FORWARD, IGNORED, EMBEDDING)


def attention_fields(reader: ConfigReader) -> dict[str, Any]:
    """Reads the attention fields that Gemma 2 and 3 share."""
    bias = reader.flag("attention_bias", False)
    return {"scale": reader.number("query_pre_attn_scalar", 256) ** -0.5, "bias": bias, "output_bias": bias}


def feed_forward_network(reader: ConfigReader) -> FeedForwardConfig:
    """Builds the feed-forward network of Gemma 2 and 3."""
    return feed_forward(reader, 9216, "hidden_activation", "hidden_act", ACTIVATIONS)


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `Gemma2Config`; defaults are those of Transformers."""
    causal_only(reader)
    sizes = Sizes.of(reader, 2304, 26, 8, kv_heads=4, head_dim=256)
    norm = rms_norm(reader, offset=1.0)
    position, context = rotary(reader, reader.size("max_position_embeddings", 8192), sizes.head_dim)
    fields = attention_fields(reader) | {"softcap": reader.number_or_none("attn_logit_softcapping", 50.0)}
    hidden = feed_forward_network(reader)
    window = reader.size_or_none("sliding_window", 4096)
    reader.neutral("sliding_window_size", (window, None))  # a repeat in the published files, which nobody reads
    blocks = [
        BlockConfig(sizes.attention(position, window=each, **fields), hidden, pre_norm=norm, output_norm=norm)
        for each in windows(reader, sizes.layers, window, (SLIDING, FULL))
    ]
    return decoder(
        reader,
        sizes,
        blocks,
        norm,
        context,
        vocab_size=256000,
        tied=True,
        eos=1,
        embed_scale=sizes.dim**0.5,
        logit_softcap=reader.number_or_none("final_logit_softcapping", 30.0),
    )
