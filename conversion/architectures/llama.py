"""Llama 1, 2 and 3: pre-norm blocks, rotary positions, gated feed-forward, grouped heads."""

from conversion.activations import ACTIVATIONS
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.table import Row, Table
from jaxllm import config

_LAYER, _THEIRS = "layers.{i}.", "model.layers.{i}."

TABLE = Table(
    rows=(
        Row("embedding.weight", "model.embed_tokens.weight", "v d -> v d"),
        Row("norm.weight", "model.norm.weight", "d -> d"),
        Row("head.weight", "lm_head.weight", "v d -> v d"),
        Row(_LAYER + "attention_norm.weight", _THEIRS + "input_layernorm.weight", "d -> d"),
        Row(_LAYER + "attention.query.weight", _THEIRS + "self_attn.q_proj.weight", "(n h) d -> n h d"),
        Row(_LAYER + "attention.key.weight", _THEIRS + "self_attn.k_proj.weight", "(n h) d -> n h d"),
        Row(_LAYER + "attention.value.weight", _THEIRS + "self_attn.v_proj.weight", "(n h) d -> n h d"),
        Row(_LAYER + "attention.output.weight", _THEIRS + "self_attn.o_proj.weight", "d (n h) -> d n h"),
        Row(_LAYER + "attention.query.bias", _THEIRS + "self_attn.q_proj.bias", "(n h) -> n h"),
        Row(_LAYER + "attention.key.bias", _THEIRS + "self_attn.k_proj.bias", "(n h) -> n h"),
        Row(_LAYER + "attention.value.bias", _THEIRS + "self_attn.v_proj.bias", "(n h) -> n h"),
        Row(_LAYER + "attention.output.bias", _THEIRS + "self_attn.o_proj.bias", "d -> d"),
        Row(_LAYER + "feed_forward_norm.weight", _THEIRS + "post_attention_layernorm.weight", "d -> d"),
        Row(_LAYER + "feed_forward.gate.weight", _THEIRS + "mlp.gate_proj.weight", "f d -> f d"),
        Row(_LAYER + "feed_forward.up.weight", _THEIRS + "mlp.up_proj.weight", "f d -> f d"),
        Row(_LAYER + "feed_forward.down.weight", _THEIRS + "mlp.down_proj.weight", "d f -> d f"),
        Row(_LAYER + "feed_forward.gate.bias", _THEIRS + "mlp.gate_proj.bias", "f -> f"),
        Row(_LAYER + "feed_forward.up.bias", _THEIRS + "mlp.up_proj.bias", "f -> f"),
        Row(_LAYER + "feed_forward.down.bias", _THEIRS + "mlp.down_proj.bias", "d -> d"),
    ),
    ignored={"model.layers.{i}.self_attn.rotary_emb.inv_freq": "computed from the config"},
    embedding="model.embed_tokens.weight",
)


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `LlamaConfig`'s keys; defaults are Transformers'."""
    bias = keys.flag("attention_bias", False)
    return decoder(keys, bias=bias, feed_forward_bias=keys.flag("mlp_bias", False))


def decoder(
    keys: Keys,
    *,
    bias: bool = False,
    feed_forward_bias: bool = False,
    window: int | None = None,
    kv_heads: int | None = None,
    hidden: int = 11008,
    max_length: int = 2048,
) -> config.Decoder:
    """A Llama in all but the given settings and defaults: what its relatives are said with."""
    dim, heads = keys.size("hidden_size", 4096), keys.size("num_attention_heads", 32)
    position, context = rotary(keys, keys.size("max_position_embeddings", max_length))
    head_dim = keys.size("head_dim", dim // heads or 1)
    grouped = keys.size("num_key_value_heads", kv_heads or heads)
    attention = config.Attention(heads, grouped, head_dim, head_dim**-0.5, bias, bias, position, window)
    activation = keys.choice("hidden_act", ACTIVATIONS, "silu")
    feed_forward = config.FeedForward(keys.size("intermediate_size", hidden), activation, True, feed_forward_bias)
    norm = config.RMSNorm(float(keys.number("rms_norm_eps", 1e-6)))
    return config.Decoder(
        vocab_size=keys.size("vocab_size", 32000),
        embed_dim=dim,
        num_layers=keys.size("num_hidden_layers", 32, most=4096),
        blocks=(config.Block(norm, attention, feed_forward),),
        norm=norm,
        context=context,
        tied=keys.flag("tie_word_embeddings", False),
        eos_token_ids=keys.token_ids("eos_token_id", 2),
    )
