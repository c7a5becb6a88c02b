"""Phi-3, Phi-3.5 and Phi-4: Llama with fused projections, and LongRoPE in the long-context models."""

from conversion.architectures.gpt2 import QKV_WEIGHT
from conversion.architectures.llama import EMBEDDING, EMBEDDING_AND_HEAD, IGNORED, NORMS
from conversion.builders import ConfigReader, Sizes, decoder, gated_feed_forward, rms_norm, rotary
from conversion.table import TableRow, WeightTable
from jaxllm.config import BlockConfig, DecoderConfig, LongRoPEScalingConfig
from jaxllm.errors import InputError

_LAYER = "layers.{i}."
_THEIRS = "model.layers.{i}."
_GATE_UP = tuple(f"layers.{{i}}.feed_forward.{name}.weight" for name in ("gate", "up"))

FUSED_FEED_FORWARD = (
    TableRow(_GATE_UP, _THEIRS + "mlp.gate_up_proj.weight", "f d -> f d", split_axis="f"),
    TableRow(_LAYER + "feed_forward.down.weight", _THEIRS + "mlp.down_proj.weight", "d f -> d f"),
)
TABLE = WeightTable(
    (
        *EMBEDDING_AND_HEAD,
        *NORMS,
        TableRow(QKV_WEIGHT, _THEIRS + "self_attn.qkv_proj.weight", "(n h) d -> n h d", split_axis="n"),
        TableRow(_LAYER + "attention.output.weight", _THEIRS + "self_attn.o_proj.weight", "d (n h) -> d n h"),
        *FUSED_FEED_FORWARD,
    ),
    IGNORED,
    EMBEDDING,
)


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `Phi3Config`; defaults are those of Transformers."""
    for bias in ("attention_bias", "mlp_bias", "lm_head_bias"):
        reader.neutral(bias, (False, None))
    for name in ("full_attn_mod", "interpolate_factor"):  # the authors' own code reads them
        reader.neutral(name, (1, None))
    sizes = Sizes.of(reader, dim=3072)
    norm = rms_norm(reader, 1e-5)
    length = reader.size("max_position_embeddings", 4096)
    names = {"su": "longrope"}  # the authors' "yarn" is a LongRoPE with another attention factor than Transformers'
    position, context = rotary(reader, length, sizes.head_dim, fraction=1.0, original=4096, renamed=names)
    if not isinstance(position.scaling, LongRoPEScalingConfig | None):
        raise InputError(f"config.json: phi3 with {type(position.scaling).__name__} is not supported; known: longrope")
    attention = sizes.attention(position, window=reader.size_or_none("sliding_window", None))
    block = BlockConfig(attention, gated_feed_forward(reader, 8192), pre_norm=norm)
    return decoder(reader, sizes, [block], norm, context, vocab_size=32064, eos=32000)
