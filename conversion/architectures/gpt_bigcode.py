"""StarCoder, OctoCoder and SantaCoder: a GPT-2 whose query heads may share one key and value (Shazeer 2019)."""

from dataclasses import replace

from conversion.architectures.gpt2 import (
    EMBEDDING,
    ENDS,
    IGNORED,
    NORMS,
    QKV_BIAS,
    QKV_WEIGHT,
    gpt_context,
    gpt_sizes,
    layer_norm,
    plain,
)
from conversion.architectures.gpt_neo import FEED_FORWARD
from conversion.keys import Keys
from conversion.sizes import decoder
from conversion.table import Row, Table
from jaxllm import config

_LAYER, _THEIRS = "layers.{i}.", "transformer.h.{i}."

# The fused projection holds a query, a key and a value for each head, or all queries first where there is one key.
ATTENTION = (
    Row(QKV_WEIGHT, _THEIRS + "attn.c_attn.weight", "(k g h) d -> (k g) h d", along="g"),
    Row(QKV_BIAS, _THEIRS + "attn.c_attn.bias", "(k g h) -> (k g) h", along="g"),
    Row(_LAYER + "attention.output.weight", _THEIRS + "attn.c_proj.weight", "d (n h) -> d n h"),
    Row(_LAYER + "attention.output.bias", _THEIRS + "attn.c_proj.bias", "d -> d"),
)
CLASS = "GPTBigCodeForCausalLM"
TABLE = Table(ENDS + NORMS + ATTENTION + FEED_FORWARD, IGNORED, EMBEDDING, prefix="transformer.")
# How PyTorch computes, and in what precision where that is not float32.
WITHOUT_EFFECT = (
    "attention_softmax_in_fp32 scale_attention_softmax_in_fp32 inference_runner max_batch_size pad_key_length "
    "pre_allocate_kv_cache validate_runner_input"
)


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `GPTBigCodeConfig`'s keys; defaults are Transformers'."""
    for name in WITHOUT_EFFECT.split():
        keys.take(name, None)
    sizes, length, norm = gpt_sizes(keys, 768, 12, 12), gpt_context(keys, 1024), layer_norm(keys)
    if keys.flag("multi_query", True):
        sizes = replace(sizes, kv_heads=1)
    keys.neutral("num_key_value_heads", (sizes.kv_heads, None))
    scale = sizes.head_dim**-0.5 if keys.flag("scale_attn_weights", True) else 1.0
    attention = sizes.attention(None, scale=scale, bias=True, output_bias=True)
    block = config.Block(norm, attention, plain(keys, sizes, activation="gelu_pytorch_tanh"))
    position = config.LearnedPosition(length)
    return decoder(keys, sizes, [block], norm, length, vocab_size=50257, tied=True, eos=50256, position=position)
