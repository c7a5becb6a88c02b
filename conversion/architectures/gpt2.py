"""GPT-2: learned positions, layer norms, and fused projections that PyTorch stores transposed (`Conv1D`)."""

from conversion.builders import ACTIVATIONS, ConfigReader, Sizes, decoder
from conversion.table import TableRow, WeightTable, layer_norm_rows
from jaxllm.config import (
    MAX_LAYERS,
    BlockConfig,
    DecoderConfig,
    FeedForwardConfig,
    LayerNormConfig,
    LearnedPositionConfig,
)
from jaxllm.errors import InputError

_LAYER = "layers.{i}."
_THEIRS = "transformer.h.{i}."
QUERY_KEY_VALUE = tuple(f"layers.{{i}}.attention.{name}." for name in ("query", "key", "value"))
QKV_WEIGHT, QKV_BIAS = (tuple(name + kind for name in QUERY_KEY_VALUE) for kind in ("weight", "bias"))

# What the tables of GPT-2's relatives are put together from.
EMBEDDING_AND_HEAD = (
    TableRow("embedding.weight", "transformer.wte.weight", "v d -> v d"),
    TableRow("position.weight", "transformer.wpe.weight", "p d -> p d"),
    TableRow("norm.weight", "transformer.ln_f.weight", "d -> d"),
    TableRow("norm.bias", "transformer.ln_f.bias", "d -> d"),
    TableRow("head.weight", "lm_head.weight", "v d -> v d"),
)
NORMS = layer_norm_rows(_THEIRS + "ln_1", _THEIRS + "ln_2")
CONV1D = (
    TableRow(QKV_WEIGHT, _THEIRS + "attn.c_attn.weight", "d (p n h) -> (p n) h d", split_axis="p"),
    TableRow(QKV_BIAS, _THEIRS + "attn.c_attn.bias", "(p n h) -> (p n) h", split_axis="p"),
    TableRow(_LAYER + "attention.output.weight", _THEIRS + "attn.c_proj.weight", "(n h) d -> d n h"),
    TableRow(_LAYER + "attention.output.bias", _THEIRS + "attn.c_proj.bias", "d -> d"),
    TableRow(_LAYER + "feed_forward.up.weight", _THEIRS + "mlp.c_fc.weight", "d f -> f d"),
    TableRow(_LAYER + "feed_forward.up.bias", _THEIRS + "mlp.c_fc.bias", "f -> f"),
    TableRow(_LAYER + "feed_forward.down.weight", _THEIRS + "mlp.c_proj.weight", "f d -> d f"),
    TableRow(_LAYER + "feed_forward.down.bias", _THEIRS + "mlp.c_proj.bias", "d -> d"),
)
IGNORED = {
    "transformer.h.{i}.attn.bias": "the causal mask",
    "transformer.h.{i}.attn.masked_bias": "the value behind the causal mask",
}
EMBEDDING = "transformer.wte.weight"

CLASS = "GPT2LMHeadModel"
TABLE = WeightTable(EMBEDDING_AND_HEAD + NORMS + CONV1D, IGNORED, EMBEDDING, prefix="transformer.")


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `GPT2Config`; defaults are those of Transformers."""
    sizes = gpt_sizes(reader, 768, 12, 12)
    length = gpt_context(reader, 1024)
    scale = 1.0
    if reader.flag("scale_attn_weights", True):
        scale = sizes.head_dim**-0.5
    by_layer = reader.flag("scale_attn_by_inverse_layer_idx", False)
    if by_layer:
        scales = [scale / (layer + 1) for layer in range(sizes.layers)]
    else:
        scales = [scale]
    norm = layer_norm(reader)
    feed_forward = ungated_feed_forward(reader, sizes)
    attentions = [sizes.attention(None, scale=s, bias=True, output_bias=True) for s in scales]
    blocks = [BlockConfig(attention, feed_forward, pre_norm=norm) for attention in attentions]
    position = LearnedPositionConfig(length)
    return decoder(reader, sizes, blocks, norm, length, vocab_size=50257, tied=True, eos=50256, position=position)


def gpt_sizes(
    reader: ConfigReader,
    dim: int,
    layers: int,
    heads: int,
    names: tuple[str, str, str] = ("n_embd", "n_layer", "n_head"),
) -> Sizes:
    """Reads the sizes from keys of the given names, or of the usual names, which Transformers accepts as aliases."""
    for name, usual in zip(names, ("hidden_size", "num_hidden_layers", "num_attention_heads"), strict=True):
        reader.alias(name, usual)
    dim = reader.size(names[0], dim)
    heads = reader.size(names[2], heads)
    layers = reader.size(names[1], layers, most=MAX_LAYERS)
    if dim % heads:
        raise InputError(f"config.json: {names[0]}={dim} cannot be shared evenly by {heads} heads")
    return Sizes(dim, layers, heads, heads, dim // heads)


def gpt_context(reader: ConfigReader, length: int) -> int:
    """Reads the maximum length; `length` is its default."""
    reader.alias("n_positions", "max_position_embeddings")
    return reader.size("n_positions", length)


def layer_norm(reader: ConfigReader) -> LayerNormConfig:
    """Builds the layer norm from `layer_norm_epsilon`."""
    return LayerNormConfig(float(reader.number("layer_norm_epsilon", 1e-5)))


def ungated_feed_forward(
    reader: ConfigReader, sizes: Sizes, hidden: str = "n_inner", activation: str = "gelu_new"
) -> FeedForwardConfig:
    """Builds the feed-forward network. Its size is the key `hidden`, by default four times the model's width."""
    activation = reader.choice("activation_function", ACTIVATIONS, activation)
    return FeedForwardConfig(reader.size(hidden, 4 * sizes.dim), activation, gated=False, bias=True)
