"""GPT-2: learned positions, layer norms, and projections that PyTorch stores transposed (`Conv1D`) and fused."""

from conversion.activations import ACTIVATIONS
from conversion.keys import Keys
from conversion.rows import layer_norms
from conversion.sizes import Sizes, decoder
from conversion.table import Row, Table
from jaxllm import config
from jaxllm.errors import InputError

_LAYER, _THEIRS = "layers.{i}.", "transformer.h.{i}."
QUERY_KEY_VALUE = tuple(f"layers.{{i}}.attention.{name}." for name in ("query", "key", "value"))
QKV_WEIGHT, QKV_BIAS = (tuple(name + kind for name in QUERY_KEY_VALUE) for kind in ("weight", "bias"))

# What the tables of GPT-2's relatives are put together from.
ENDS = (
    Row("embedding.weight", "transformer.wte.weight", "v d -> v d"),
    Row("position.weight", "transformer.wpe.weight", "p d -> p d"),
    Row("norm.weight", "transformer.ln_f.weight", "d -> d"),
    Row("norm.bias", "transformer.ln_f.bias", "d -> d"),
    Row("head.weight", "lm_head.weight", "v d -> v d"),
)
NORMS = layer_norms(_THEIRS + "ln_1", _THEIRS + "ln_2")
CONV1D = (
    Row(QKV_WEIGHT, _THEIRS + "attn.c_attn.weight", "d (p n h) -> (p n) h d", along="p"),
    Row(QKV_BIAS, _THEIRS + "attn.c_attn.bias", "(p n h) -> (p n) h", along="p"),
    Row(_LAYER + "attention.output.weight", _THEIRS + "attn.c_proj.weight", "(n h) d -> d n h"),
    Row(_LAYER + "attention.output.bias", _THEIRS + "attn.c_proj.bias", "d -> d"),
    Row(_LAYER + "feed_forward.up.weight", _THEIRS + "mlp.c_fc.weight", "d f -> f d"),
    Row(_LAYER + "feed_forward.up.bias", _THEIRS + "mlp.c_fc.bias", "f -> f"),
    Row(_LAYER + "feed_forward.down.weight", _THEIRS + "mlp.c_proj.weight", "f d -> d f"),
    Row(_LAYER + "feed_forward.down.bias", _THEIRS + "mlp.c_proj.bias", "d -> d"),
)
IGNORED = {
    "transformer.h.{i}.attn.bias": "the causal mask",
    "transformer.h.{i}.attn.masked_bias": "the value behind the causal mask",
}
EMBEDDING = "transformer.wte.weight"

CLASS = "GPT2LMHeadModel"
TABLE = Table(ENDS + NORMS + CONV1D, IGNORED, EMBEDDING, prefix="transformer.")


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `GPT2Config`'s keys; defaults are Transformers'."""
    sizes, length = gpt_sizes(keys, 768, 12, 12), gpt_context(keys, 1024)
    scale = sizes.head_dim**-0.5 if keys.flag("scale_attn_weights", True) else 1.0
    by_layer = keys.flag("scale_attn_by_inverse_layer_idx", False)
    scales = [scale / (layer + 1) for layer in range(sizes.layers)] if by_layer else [scale]
    norm, feed_forward = layer_norm(keys), plain(keys, sizes)
    attentions = [sizes.attention(None, scale=s, bias=True, output_bias=True) for s in scales]
    blocks = [config.Block(norm, attention, feed_forward) for attention in attentions]
    position = config.LearnedPosition(length)
    return decoder(keys, sizes, blocks, norm, length, vocab_size=50257, tied=True, eos=50256, position=position)


def gpt_sizes(
    keys: Keys, dim: int, layers: int, heads: int, names: tuple[str, str, str] = ("n_embd", "n_layer", "n_head")
) -> Sizes:
    """The sizes under the given names, or under the usual ones, which Transformers takes for the same."""
    for name, usual in zip(names, ("hidden_size", "num_hidden_layers", "num_attention_heads"), strict=True):
        keys.alias(name, usual)
    dim, heads = keys.size(names[0], dim), keys.size(names[2], heads)
    layers = keys.size(names[1], layers, most=config.MAX_LAYERS)
    if dim % heads:
        raise InputError(f"config.json: {names[0]}={dim} cannot be shared evenly by {heads} heads")
    return Sizes(dim, layers, heads, heads, dim // heads)


def gpt_context(keys: Keys, length: int) -> int:
    """How many positions there are."""
    keys.alias("n_positions", "max_position_embeddings")
    return keys.size("n_positions", length)


def layer_norm(keys: Keys) -> config.LayerNorm:
    """The norm of a config that gives its epsilon as `layer_norm_epsilon`."""
    return config.LayerNorm(float(keys.number("layer_norm_epsilon", 1e-5)))


def plain(keys: Keys, sizes: Sizes, hidden: str = "n_inner", activation: str = "gelu_new") -> config.FeedForward:
    """The feed-forward network, four times as wide as the model unless the key `hidden` says otherwise."""
    activation = keys.choice("activation_function", ACTIVATIONS, activation)
    return config.FeedForward(keys.size(hidden, 4 * sizes.dim), activation, gated=False, bias=True)
