"""Llama 1, 2 and 3: pre-norm blocks, rotary positions, gated feed-forward, grouped heads."""

from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.sizes import Sizes, decoder, gated, rms_norm
from conversion.table import Row, Table
from jaxllm import config

_LAYER, _THEIRS = "layers.{i}.", "model.layers.{i}."

# What the tables of Llama's relatives are put together from.
ENDS = (
    Row("embedding.weight", "model.embed_tokens.weight", "v d -> v d"),
    Row("norm.weight", "model.norm.weight", "d -> d"),
    Row("head.weight", "lm_head.weight", "v d -> v d"),
)
NORMS = (
    Row(_LAYER + "attention_norm.weight", _THEIRS + "input_layernorm.weight", "d -> d"),
    Row(_LAYER + "feed_forward_norm.weight", _THEIRS + "post_attention_layernorm.weight", "d -> d"),
)
ATTENTION = (
    Row(_LAYER + "attention.query.weight", _THEIRS + "self_attn.q_proj.weight", "(n h) d -> n h d"),
    Row(_LAYER + "attention.key.weight", _THEIRS + "self_attn.k_proj.weight", "(n h) d -> n h d"),
    Row(_LAYER + "attention.value.weight", _THEIRS + "self_attn.v_proj.weight", "(n h) d -> n h d"),
    Row(_LAYER + "attention.output.weight", _THEIRS + "self_attn.o_proj.weight", "d (n h) -> d n h"),
    Row(_LAYER + "attention.query.bias", _THEIRS + "self_attn.q_proj.bias", "(n h) -> n h"),
    Row(_LAYER + "attention.key.bias", _THEIRS + "self_attn.k_proj.bias", "(n h) -> n h"),
    Row(_LAYER + "attention.value.bias", _THEIRS + "self_attn.v_proj.bias", "(n h) -> n h"),
    Row(_LAYER + "attention.output.bias", _THEIRS + "self_attn.o_proj.bias", "d -> d"),
)
FEED_FORWARD = (
    Row(_LAYER + "feed_forward.gate.weight", _THEIRS + "mlp.gate_proj.weight", "f d -> f d"),
    Row(_LAYER + "feed_forward.up.weight", _THEIRS + "mlp.up_proj.weight", "f d -> f d"),
    Row(_LAYER + "feed_forward.down.weight", _THEIRS + "mlp.down_proj.weight", "d f -> d f"),
    Row(_LAYER + "feed_forward.gate.bias", _THEIRS + "mlp.gate_proj.bias", "f -> f"),
    Row(_LAYER + "feed_forward.up.bias", _THEIRS + "mlp.up_proj.bias", "f -> f"),
    Row(_LAYER + "feed_forward.down.bias", _THEIRS + "mlp.down_proj.bias", "d -> d"),
)
IGNORED = {"model.layers.{i}.self_attn.rotary_emb.inv_freq": "computed from the config"}
EMBEDDING = "model.embed_tokens.weight"

TABLE = Table(ENDS + NORMS + ATTENTION + FEED_FORWARD, IGNORED, EMBEDDING)


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `LlamaConfig`'s keys; defaults are Transformers'."""
    sizes, norm = Sizes.of(keys), rms_norm(keys)
    position, context = rotary(keys, keys.size("max_position_embeddings", 2048), sizes.head_dim)
    bias = keys.flag("attention_bias", False)
    attention = sizes.attention(position, bias=bias, output_bias=bias)
    block = config.Block(norm, attention, gated(keys, 11008, bias=keys.flag("mlp_bias", False)))
    return decoder(keys, sizes, [block], norm, context, vocab_size=32000, eos=2)
