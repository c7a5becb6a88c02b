"""Qwen3: Qwen2 with QK norm, by default without biases."""

from conversion.architectures.llama import ATTENTION, EMBEDDING, EMBEDDING_AND_HEAD, FEED_FORWARD, IGNORED, NORMS
from conversion.architectures.qwen2 import upper_windows
from conversion.builders import ConfigReader, Sizes, decoder, gated_feed_forward, rms_norm, rotary
from conversion.table import TableRow, WeightTable
from jaxllm.config import BlockConfig, DecoderConfig, QKNormConfig

_LAYER = "layers.{i}.attention."
_THEIRS = "model.layers.{i}.self_attn."

QK_NORMS = (
    TableRow(_LAYER + "query_norm.weight", _THEIRS + "q_norm.weight", "h -> h"),
    TableRow(_LAYER + "key_norm.weight", _THEIRS + "k_norm.weight", "h -> h"),
)

TABLE = WeightTable(EMBEDDING_AND_HEAD + NORMS + ATTENTION + QK_NORMS + FEED_FORWARD, IGNORED, EMBEDDING)


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `Qwen3Config`; defaults are those of Transformers."""
    sizes = Sizes.of(reader, kv_heads=32, head_dim=128)
    norm = rms_norm(reader)
    feed_forward = gated_feed_forward(reader, 22016)
    position, context = rotary(reader, reader.size("max_position_embeddings", 32768), sizes.head_dim)
    bias = reader.flag("attention_bias", False)
    qk_norm = QKNormConfig(norm)
    blocks = [
        BlockConfig(
            sizes.attention(position, bias=bias, output_bias=bias, window=window, qk_norm=qk_norm),
            feed_forward,
            pre_norm=norm,
        )
        for window in upper_windows(reader, sizes.layers)
    ]
    return decoder(reader, sizes, blocks, norm, context, vocab_size=151936, eos=None)
