"""OLMo 2: Llama with norms on the outputs of branches, and a QK norm over all heads together."""

from conversion.architectures.llama import ATTENTION, EMBEDDING, EMBEDDING_AND_HEAD, FEED_FORWARD, IGNORED
from conversion.builders import ConfigReader, Sizes, decoder, gated_feed_forward, rms_norm, rotary
from conversion.table import TableRow, WeightTable
from jaxllm.config import BlockConfig, DecoderConfig, QKNormConfig

_LAYER = "layers.{i}."
_THEIRS = "model.layers.{i}."

OUTPUT_NORMS = (
    TableRow(_LAYER + "attention_output_norm.weight", _THEIRS + "post_attention_layernorm.weight", "d -> d"),
    TableRow(_LAYER + "feed_forward_output_norm.weight", _THEIRS + "post_feedforward_layernorm.weight", "d -> d"),
)
QK_NORMS = (
    TableRow(_LAYER + "attention.query_norm.weight", _THEIRS + "self_attn.q_norm.weight", "(n h) -> n h"),
    TableRow(_LAYER + "attention.key_norm.weight", _THEIRS + "self_attn.k_norm.weight", "(n h) -> n h"),
)

TABLE = WeightTable(EMBEDDING_AND_HEAD + OUTPUT_NORMS + ATTENTION + QK_NORMS + FEED_FORWARD, IGNORED, EMBEDDING)


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `Olmo2Config`; defaults are those of Transformers."""
    sizes = Sizes.of(reader)
    norm = rms_norm(reader, 1e-5)
    position, context = rotary(reader, reader.size("max_position_embeddings", 2048), sizes.head_dim)
    bias = reader.flag("attention_bias", False)
    qk_norm = QKNormConfig(norm, "all heads")
    attention = sizes.attention(position, bias=bias, output_bias=bias, qk_norm=qk_norm)
    block = BlockConfig(attention, gated_feed_forward(reader, 11008), output_norm=norm)
    return decoder(reader, sizes, [block], norm, context, vocab_size=50304, eos=50279)
