"""GPT-2: learned positions, layer norms, and projections that PyTorch stores transposed (`Conv1D`) and fused."""

from conversion.activations import ACTIVATIONS
from conversion.keys import Keys
from conversion.table import Row, Table
from jaxllm import config

_LAYER, _THEIRS = "layers.{i}.", "transformer.h.{i}."
_QKV = tuple(f"layers.{{i}}.attention.{name}." for name in ("query", "key", "value"))

TABLE = Table(
    rows=(
        Row("embedding.weight", "transformer.wte.weight", "v d -> v d"),
        Row("position.weight", "transformer.wpe.weight", "p d -> p d"),
        Row("norm.weight", "transformer.ln_f.weight", "d -> d"),
        Row("norm.bias", "transformer.ln_f.bias", "d -> d"),
        Row("head.weight", "lm_head.weight", "v d -> v d"),
        Row(_LAYER + "attention_norm.weight", _THEIRS + "ln_1.weight", "d -> d"),
        Row(_LAYER + "attention_norm.bias", _THEIRS + "ln_1.bias", "d -> d"),
        Row(tuple(name + "weight" for name in _QKV), _THEIRS + "attn.c_attn.weight", "d (p n h) -> (p n) h d", "p"),
        Row(tuple(name + "bias" for name in _QKV), _THEIRS + "attn.c_attn.bias", "(p n h) -> (p n) h", "p"),
        Row(_LAYER + "attention.output.weight", _THEIRS + "attn.c_proj.weight", "(n h) d -> d n h"),
        Row(_LAYER + "attention.output.bias", _THEIRS + "attn.c_proj.bias", "d -> d"),
        Row(_LAYER + "feed_forward_norm.weight", _THEIRS + "ln_2.weight", "d -> d"),
        Row(_LAYER + "feed_forward_norm.bias", _THEIRS + "ln_2.bias", "d -> d"),
        Row(_LAYER + "feed_forward.up.weight", _THEIRS + "mlp.c_fc.weight", "d f -> f d"),
        Row(_LAYER + "feed_forward.up.bias", _THEIRS + "mlp.c_fc.bias", "f -> f"),
        Row(_LAYER + "feed_forward.down.weight", _THEIRS + "mlp.c_proj.weight", "f d -> d f"),
        Row(_LAYER + "feed_forward.down.bias", _THEIRS + "mlp.c_proj.bias", "d -> d"),
    ),
    ignored={
        "transformer.h.{i}.attn.bias": "the causal mask",
        "transformer.h.{i}.attn.masked_bias": "the value behind the causal mask",
    },
    prefix="transformer.",
    embedding="transformer.wte.weight",
)


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `GPT2Config`'s keys; defaults are Transformers'."""
    dim, heads, layers = keys.size("n_embd", 768), keys.size("n_head", 12), keys.size("n_layer", 12, most=4096)
    head_dim, length = dim // heads or 1, keys.size("n_positions", 1024)
    scale = head_dim**-0.5 if keys.flag("scale_attn_weights", True) else 1.0
    norm = config.LayerNorm(float(keys.number("layer_norm_epsilon", 1e-5)))
    hidden = keys.size("n_inner", 4 * dim)
    feed_forward = config.FeedForward(
        hidden, keys.choice("activation_function", ACTIVATIONS, "gelu_new"), gated=False, bias=True
    )
    by_layer = keys.flag("scale_attn_by_inverse_layer_idx", False)
    scales = [scale / (layer + 1) for layer in range(layers)] if by_layer else [scale]
    return config.Decoder(
        vocab_size=keys.size("vocab_size", 50257),
        embed_dim=dim,
        num_layers=layers,
        blocks=tuple(
            config.Block(norm, config.Attention(heads, heads, head_dim, s, bias=True, output_bias=True), feed_forward)
            for s in scales
        ),
        norm=norm,
        context=length,
        tied=keys.flag("tie_word_embeddings", True),
        position=config.LearnedPosition(length),
        eos_token_ids=keys.token_ids("eos_token_id", 50256),
    )
