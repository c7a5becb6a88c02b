"""Llama 1, 2 and 3: pre-norm blocks, rotary embeddings, gated feed-forward and grouped-query attention."""

from conversion.builders import ConfigReader, Sizes, decoder, gated_feed_forward, rms_norm, rotary
from conversion.table import TableRow, WeightTable
from jaxllm.config import BlockConfig, DecoderConfig

_LAYER = "layers.{i}."
_THEIRS = "model.layers.{i}."

# What the tables of Llama's relatives are put together from.
EMBEDDING_AND_HEAD = (
    TableRow("embedding.weight", "model.embed_tokens.weight", "v d -> v d"),
    TableRow("norm.weight", "model.norm.weight", "d -> d"),
    TableRow("head.weight", "lm_head.weight", "v d -> v d"),
)
NORMS = (
    TableRow(_LAYER + "attention_norm.weight", _THEIRS + "input_layernorm.weight", "d -> d"),
    TableRow(_LAYER + "feed_forward_norm.weight", _THEIRS + "post_attention_layernorm.weight", "d -> d"),
)
ATTENTION = (
    TableRow(_LAYER + "attention.query.weight", _THEIRS + "self_attn.q_proj.weight", "(n h) d -> n h d"),
    TableRow(_LAYER + "attention.key.weight", _THEIRS + "self_attn.k_proj.weight", "(n h) d -> n h d"),
    TableRow(_LAYER + "attention.value.weight", _THEIRS + "self_attn.v_proj.weight", "(n h) d -> n h d"),
    TableRow(_LAYER + "attention.output.weight", _THEIRS + "self_attn.o_proj.weight", "d (n h) -> d n h"),
    TableRow(_LAYER + "attention.query.bias", _THEIRS + "self_attn.q_proj.bias", "(n h) -> n h"),
    TableRow(_LAYER + "attention.key.bias", _THEIRS + "self_attn.k_proj.bias", "(n h) -> n h"),
    TableRow(_LAYER + "attention.value.bias", _THEIRS + "self_attn.v_proj.bias", "(n h) -> n h"),
    TableRow(_LAYER + "attention.output.bias", _THEIRS + "self_attn.o_proj.bias", "d -> d"),
)
FEED_FORWARD = (
    TableRow(_LAYER + "feed_forward.gate.weight", _THEIRS + "mlp.gate_proj.weight", "f d -> f d"),
    TableRow(_LAYER + "feed_forward.up.weight", _THEIRS + "mlp.up_proj.weight", "f d -> f d"),
    TableRow(_LAYER + "feed_forward.down.weight", _THEIRS + "mlp.down_proj.weight", "d f -> d f"),
    TableRow(_LAYER + "feed_forward.gate.bias", _THEIRS + "mlp.gate_proj.bias", "f -> f"),
    TableRow(_LAYER + "feed_forward.up.bias", _THEIRS + "mlp.up_proj.bias", "f -> f"),
    TableRow(_LAYER + "feed_forward.down.bias", _THEIRS + "mlp.down_proj.bias", "d -> d"),
)
IGNORED = {"model.layers.{i}.self_attn.rotary_emb.inv_freq": "computed from the config"}
EMBEDDING = "model.embed_tokens.weight"

TABLE = WeightTable(EMBEDDING_AND_HEAD + NORMS + ATTENTION + FEED_FORWARD, IGNORED, EMBEDDING)


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `LlamaConfig`; defaults are those of Transformers."""
    sizes = Sizes.of(reader)
    norm = rms_norm(reader)
    position, context = rotary(reader, reader.size("max_position_embeddings", 2048), sizes.head_dim)
    bias = reader.flag("attention_bias", False)
    attention = sizes.attention(position, bias=bias, output_bias=bias)
    block = BlockConfig(
        attention, gated_feed_forward(reader, 11008, bias=reader.flag("mlp_bias", False)), pre_norm=norm
    )
    return decoder(reader, sizes, [block], norm, context, vocab_size=32000, eos=2)
