"""Phi-3, Phi-3.5 and Phi-4: a Llama with fused projections, and LongRoPE where it is made for long texts."""

from conversion.architectures.gpt2 import QKV_WEIGHT
from conversion.architectures.llama import EMBEDDING, ENDS, IGNORED, NORMS
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.sizes import Sizes, decoder, gated, rms_norm
from conversion.table import Row, Table
from jaxllm import config
from jaxllm.errors import InputError

_LAYER, _THEIRS = "layers.{i}.", "model.layers.{i}."
_GATE_UP = tuple(f"layers.{{i}}.feed_forward.{name}.weight" for name in ("gate", "up"))

FUSED_FEED_FORWARD = (
    Row(_GATE_UP, _THEIRS + "mlp.gate_up_proj.weight", "f d -> f d", along="f"),
    Row(_LAYER + "feed_forward.down.weight", _THEIRS + "mlp.down_proj.weight", "d f -> d f"),
)
TABLE = Table(
    (
        *ENDS,
        *NORMS,
        Row(QKV_WEIGHT, _THEIRS + "self_attn.qkv_proj.weight", "(n h) d -> n h d", along="n"),
        Row(_LAYER + "attention.output.weight", _THEIRS + "self_attn.o_proj.weight", "d (n h) -> d n h"),
        *FUSED_FEED_FORWARD,
    ),
    IGNORED,
    EMBEDDING,
)


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `Phi3Config`'s keys; defaults are Transformers'."""
    for bias in ("attention_bias", "mlp_bias", "lm_head_bias"):
        keys.neutral(bias, (False, None))
    for name in ("full_attn_mod", "interpolate_factor"):  # the authors' own code reads them
        keys.neutral(name, (1, None))
    sizes, norm = Sizes.of(keys, dim=3072), rms_norm(keys, 1e-5)
    length = keys.size("max_position_embeddings", 4096)
    names = {"su": "longrope"}  # the authors' "yarn" is a LongRoPE with another attention factor than Transformers'
    position, context = rotary(keys, length, sizes.head_dim, fraction=1.0, original=4096, renamed=names)
    if not isinstance(position.scaling, config.LongScaling | None):
        raise InputError(f"config.json: phi3 with {type(position.scaling).__name__} is not supported; known: longrope")
    attention = sizes.attention(position, window=keys.size_or_none("sliding_window", None))
    block = config.Block(norm, attention, gated(keys, 8192))
    return decoder(keys, sizes, [block], norm, context, vocab_size=32064, eos=32000)
