"""GPT-J: parallel attention and feed-forward with one norm, and interleaved rotary embeddings."""

from conversion.architectures.gpt2 import (
    EMBEDDING,
    EMBEDDING_AND_HEAD,
    IGNORED,
    NORMS,
    gpt_context,
    gpt_sizes,
    layer_norm,
    ungated_feed_forward,
)
from conversion.builders import ConfigReader, decoder
from conversion.table import TableRow, WeightTable, ungated_feed_forward_rows
from jaxllm.config import DecoderConfig, ParallelBlockConfig, RotaryConfig

_LAYER = "layers.{i}."
_THEIRS = "transformer.h.{i}."

# What CodeGen's table has too.
OUTER = (
    *EMBEDDING_AND_HEAD,
    *NORMS,
    TableRow("head.bias", "lm_head.bias", "v -> v"),
    TableRow(_LAYER + "attention.output.weight", _THEIRS + "attn.out_proj.weight", "d (n h) -> d n h"),
    *ungated_feed_forward_rows(_THEIRS + "mlp.fc_in", _THEIRS + "mlp.fc_out"),
)
ATTENTION = (
    TableRow(_LAYER + "attention.query.weight", _THEIRS + "attn.q_proj.weight", "(n h) d -> n h d"),
    TableRow(_LAYER + "attention.key.weight", _THEIRS + "attn.k_proj.weight", "(n h) d -> n h d"),
    TableRow(_LAYER + "attention.value.weight", _THEIRS + "attn.v_proj.weight", "(n h) d -> n h d"),
)
CLASS = "GPTJForCausalLM"
TABLE = WeightTable(OUTER + ATTENTION, IGNORED, EMBEDDING)


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `GPTJConfig`; defaults are those of Transformers."""
    for flag in ("rotary", "scale_attn_weights"):  # old keys that no version of Transformers heeds
        reader.neutral(flag, (True, None))
    sizes = gpt_sizes(reader, 4096, 28, 16)
    context = gpt_context(reader, 2048)
    norm = layer_norm(reader)
    position = RotaryConfig(rotary_dim=reader.take("rotary_dim", 64, (int,)), interleaved=True)
    block = ParallelBlockConfig(sizes.attention(position), ungated_feed_forward(reader, sizes), pre_norm=norm)
    return decoder(reader, sizes, [block], norm, context, vocab_size=50400, eos=50256, head_bias=True)
