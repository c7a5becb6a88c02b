"""Phi-1, 1.5 and 2: parallel attention and feed-forward with one norm, partial rotary embeddings, and biases."""

from dataclasses import replace

from conversion.architectures.bloom import megatron_norms
from conversion.architectures.llama import ATTENTION, EMBEDDING, EMBEDDING_AND_HEAD, IGNORED
from conversion.builders import ACTIVATIONS, ConfigReader, Sizes, decoder, rotary
from conversion.table import TableRow, WeightTable, ungated_feed_forward_rows
from jaxllm.config import (
    AttentionConfig,
    DecoderConfig,
    FeedForwardConfig,
    LayerNormConfig,
    ParallelBlockConfig,
    QKNormConfig,
)

_LAYER = "layers.{i}."
_THEIRS = "model.layers.{i}."

# What Persimmon's table has too.
OUTER = (
    *(row for row in EMBEDDING_AND_HEAD if not row.source.startswith("model.norm")),
    TableRow("norm.weight", "model.final_layernorm.weight", "d -> d"),
    TableRow("norm.bias", "model.final_layernorm.bias", "d -> d"),
    *megatron_norms(_THEIRS),
    *(
        TableRow(f"{_LAYER}attention.{ours}_norm.{kind}", f"{_THEIRS}self_attn.{theirs}_layernorm.{kind}", "h -> h")
        for ours, theirs in (("query", "q"), ("key", "k"))
        for kind in ("weight", "bias")
    ),
)
_LINEAR_MAPS = (
    *(replace(row, source=row.source.replace("o_proj", "dense")) for row in ATTENTION),
    *ungated_feed_forward_rows(_THEIRS + "mlp.fc1", _THEIRS + "mlp.fc2"),
    TableRow("head.bias", "lm_head.bias", "v -> v"),
)
TABLE = WeightTable(OUTER + _LINEAR_MAPS, IGNORED, EMBEDDING)


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `PhiConfig`; defaults are those of Transformers."""
    sizes = Sizes.of(reader, dim=2048, layers=24)
    length = reader.size("max_position_embeddings", 2048)
    norm, attention, context = normed_attention(reader, sizes, length, normed=False)
    activation = reader.choice("hidden_act", ACTIVATIONS, "gelu_new")
    feed_forward = FeedForwardConfig(reader.size("intermediate_size", 8192), activation, gated=False, bias=True)
    block = ParallelBlockConfig(attention, feed_forward, pre_norm=norm)
    return decoder(reader, sizes, [block], norm, context, vocab_size=51200, eos=2, head_bias=True)


def normed_attention(
    reader: ConfigReader, sizes: Sizes, length: int, *, normed: bool
) -> tuple[LayerNormConfig, AttentionConfig, int]:
    """Builds the layer norm, and attention with half of each head rotated.

    `normed` is the default of `qk_layernorm`. Also returns the maximum length.
    """
    norm = LayerNormConfig(float(reader.number("layer_norm_eps", 1e-5)))
    position, context = rotary(reader, length, sizes.head_dim, fraction=0.5)
    qk_norm = None
    if reader.flag("qk_layernorm", normed):
        qk_norm = QKNormConfig(norm)
    return norm, sizes.attention(position, bias=True, output_bias=True, qk_norm=qk_norm), context
