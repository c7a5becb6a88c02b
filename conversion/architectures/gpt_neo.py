"""GPT-Neo: GPT-2 with unscaled attention scores and a sliding window in every other layer."""

from conversion.architectures.gpt2 import (
    EMBEDDING,
    EMBEDDING_AND_HEAD,
    NORMS,
    gpt_sizes,
    layer_norm,
    ungated_feed_forward,
)
from conversion.builders import ConfigReader, decoder
from conversion.table import TableRow, WeightTable, ungated_feed_forward_rows
from jaxllm.config import BlockConfig, DecoderConfig, LearnedPositionConfig
from jaxllm.errors import InputError

GLOBAL = "global"
LOCAL = "local"
_LAYER = "layers.{i}."
_THEIRS = "transformer.h.{i}."
_ATTENTION = _THEIRS + "attn.attention."

ATTENTION = (
    TableRow(_LAYER + "attention.query.weight", _ATTENTION + "q_proj.weight", "(n h) d -> n h d"),
    TableRow(_LAYER + "attention.key.weight", _ATTENTION + "k_proj.weight", "(n h) d -> n h d"),
    TableRow(_LAYER + "attention.value.weight", _ATTENTION + "v_proj.weight", "(n h) d -> n h d"),
    TableRow(_LAYER + "attention.output.weight", _ATTENTION + "out_proj.weight", "d (n h) -> d n h"),
    TableRow(_LAYER + "attention.output.bias", _ATTENTION + "out_proj.bias", "d -> d"),
)
FEED_FORWARD = ungated_feed_forward_rows(_THEIRS + "mlp.c_fc", _THEIRS + "mlp.c_proj")
IGNORED = {
    _ATTENTION + "bias": "the causal mask",
    _ATTENTION + "masked_bias": "the value behind the causal mask",
}
CLASS = "GPTNeoForCausalLM"
TABLE = WeightTable(EMBEDDING_AND_HEAD + NORMS + ATTENTION + FEED_FORWARD, IGNORED, EMBEDDING, prefix="transformer.")


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `GPTNeoConfig`; defaults are those of Transformers."""
    sizes = gpt_sizes(reader, 2048, 24, 16, ("hidden_size", "num_layers", "num_heads"))
    norm = layer_norm(reader)
    feed_forward = ungated_feed_forward(reader, sizes, "intermediate_size")
    window = reader.size("window_size", 256)
    length = reader.size("max_position_embeddings", 2048)
    attentions = {
        GLOBAL: sizes.attention(None, scale=1.0, output_bias=True),
        LOCAL: sizes.attention(None, scale=1.0, output_bias=True, window=window),
    }
    blocks = [
        BlockConfig(attentions[kind], feed_forward, pre_norm=norm) for kind in _attention_layers(reader, sizes.layers)
    ]
    position = LearnedPositionConfig(length)
    return decoder(reader, sizes, blocks, norm, length, vocab_size=50257, tied=True, eos=50256, position=position)


def _attention_layers(reader: ConfigReader, layers: int) -> list[str]:
    """Returns the kind of each layer. `attention_types` abbreviates `attention_layers`: [[[kind, ...], times], ...]."""
    types = reader.take("attention_types", None, (list, type(None)))
    if types is None:
        return list(reader.choices("attention_layers", (GLOBAL, LOCAL), layers, [GLOBAL, LOCAL] * 12))
    for item in types:
        if not isinstance(item, list) or list(map(type, item)) != [list, int] or not 0 <= item[1] <= layers:
            raise InputError(f"config.json: attention_types must be lists of kinds and times, not {str(item)[:60]}")
    expanded = [kind for kinds, times in types for _ in range(times) for kind in kinds]
    listed = list(reader.choices("attention_layers", (GLOBAL, LOCAL), layers, expanded))
    if listed != expanded:
        raise InputError("config.json: attention_types and attention_layers disagree")
    return listed
