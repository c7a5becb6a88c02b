"""Command R: parallel blocks, layer norms without bias, interleaved rotary embeddings and scaled logits."""

from conversion.architectures.llama import ATTENTION, EMBEDDING, EMBEDDING_AND_HEAD, FEED_FORWARD, IGNORED, NORMS
from conversion.builders import ConfigReader, Sizes, decoder, gated_feed_forward, rotary
from conversion.table import TableRow, WeightTable
from jaxllm.config import DecoderConfig, LayerNormConfig, NormConfig, ParallelBlockConfig, QKNormConfig

_LAYER = "layers.{i}."
_THEIRS = "model.layers.{i}."

TABLE = WeightTable(
    (
        *EMBEDDING_AND_HEAD,
        *NORMS,
        *ATTENTION,
        TableRow(_LAYER + "attention.query_norm.weight", _THEIRS + "self_attn.q_norm.weight", "n h -> n h"),
        TableRow(_LAYER + "attention.key_norm.weight", _THEIRS + "self_attn.k_norm.weight", "n h -> n h"),
        *FEED_FORWARD,
    ),
    IGNORED,
    EMBEDDING,
)


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `CohereConfig`; defaults are those of Transformers."""
    reader.take("model_max_length", None)  # of the tokenizer
    sizes = Sizes.of(reader, dim=8192, layers=40, heads=64)
    norm = layer_norm(reader)
    length = reader.size("max_position_embeddings", 8192)
    position, context = rotary(reader, length, sizes.head_dim, theta=500_000.0, interleaved=True)
    bias = reader.flag("attention_bias", False)
    normal = reader.flag("use_qk_norm", False)
    qk_norm = None
    if normal:
        qk_norm = QKNormConfig(norm, "each head")
    attention = sizes.attention(position, bias=bias, output_bias=bias, qk_norm=qk_norm)
    return scaled(
        reader, sizes, [ParallelBlockConfig(attention, gated_feed_forward(reader, 22528), pre_norm=norm)], norm, context
    )


def layer_norm(reader: ConfigReader) -> LayerNormConfig:
    """Builds the layer norm, which has no bias."""
    return LayerNormConfig(float(reader.number("layer_norm_eps", 1e-5)), bias=False)


def scaled(
    reader: ConfigReader, sizes: Sizes, blocks: list[ParallelBlockConfig], norm: NormConfig, context: int
) -> DecoderConfig:
    """Builds the decoder with scaled logits, from its layers."""
    scale = float(reader.number("logit_scale", 0.0625))
    return decoder(reader, sizes, blocks, norm, context, vocab_size=256000, tied=True, eos=255001, logit_scale=scale)
