"""StarCoder, OctoCoder and SantaCoder: GPT-2 with optional multi-query attention (Shazeer 2019)."""

from dataclasses import replace

from conversion.architectures.gpt2 import (
    EMBEDDING,
    EMBEDDING_AND_HEAD,
    IGNORED,
    NORMS,
    QKV_BIAS,
    QKV_WEIGHT,
    gpt_context,
    gpt_sizes,
    layer_norm,
    ungated_feed_forward,
)
from conversion.architectures.gpt_neo import FEED_FORWARD
from conversion.builders import ConfigReader, decoder
from conversion.table import TableRow, WeightTable
from jaxllm.config import BlockConfig, DecoderConfig, LearnedPositionConfig

_LAYER = "layers.{i}."
_THEIRS = "transformer.h.{i}."

# The fused projection holds query, key and value of each head in turn, or with one key head, all queries first.
ATTENTION = (
    TableRow(QKV_WEIGHT, _THEIRS + "attn.c_attn.weight", "(k g h) d -> (k g) h d", split_axis="g"),
    TableRow(QKV_BIAS, _THEIRS + "attn.c_attn.bias", "(k g h) -> (k g) h", split_axis="g"),
    TableRow(_LAYER + "attention.output.weight", _THEIRS + "attn.c_proj.weight", "d (n h) -> d n h"),
    TableRow(_LAYER + "attention.output.bias", _THEIRS + "attn.c_proj.bias", "d -> d"),
)
CLASS = "GPTBigCodeForCausalLM"
TABLE = WeightTable(EMBEDDING_AND_HEAD + NORMS + ATTENTION + FEED_FORWARD, IGNORED, EMBEDDING, prefix="transformer.")
# These keys select how PyTorch computes. They do not change the model.
WITHOUT_EFFECT = (
    "attention_softmax_in_fp32 scale_attention_softmax_in_fp32 inference_runner max_batch_size pad_key_length "
    "pre_allocate_kv_cache validate_runner_input"
)


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `GPTBigCodeConfig`; defaults are those of Transformers."""
    for name in WITHOUT_EFFECT.split():
        reader.take(name, None)
    sizes = gpt_sizes(reader, 768, 12, 12)
    length = gpt_context(reader, 1024)
    norm = layer_norm(reader)
    if reader.flag("multi_query", True):
        sizes = replace(sizes, kv_heads=1)
    reader.neutral("num_key_value_heads", (sizes.kv_heads, None))
    scale = 1.0
    if reader.flag("scale_attn_weights", True):
        scale = sizes.head_dim**-0.5
    attention = sizes.attention(None, scale=scale, bias=True, output_bias=True)
    block = BlockConfig(attention, ungated_feed_forward(reader, sizes, activation="gelu_pytorch_tanh"), pre_norm=norm)
    position = LearnedPositionConfig(length)
    return decoder(reader, sizes, [block], norm, length, vocab_size=50257, tied=True, eos=50256, position=position)
