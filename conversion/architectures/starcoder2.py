"""StarCoder 2: layer norms, biases throughout, a plain feed-forward network, attention that may slide."""

from conversion.activations import ACTIVATIONS
from conversion.architectures.llama import ATTENTION, EMBEDDING, ENDS, IGNORED, NORMS
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.sizes import Sizes, decoder
from conversion.table import Row, Table
from jaxllm import config

_LAYER, _THEIRS = "layers.{i}.", "model.layers.{i}."

TABLE = Table(
    ENDS
    + NORMS
    + ATTENTION
    + (
        Row("norm.bias", "model.norm.bias", "d -> d"),
        Row(_LAYER + "attention_norm.bias", _THEIRS + "input_layernorm.bias", "d -> d"),
        Row(_LAYER + "feed_forward_norm.bias", _THEIRS + "post_attention_layernorm.bias", "d -> d"),
        Row(_LAYER + "feed_forward.up.weight", _THEIRS + "mlp.c_fc.weight", "f d -> f d"),
        Row(_LAYER + "feed_forward.up.bias", _THEIRS + "mlp.c_fc.bias", "f -> f"),
        Row(_LAYER + "feed_forward.down.weight", _THEIRS + "mlp.c_proj.weight", "d f -> d f"),
        Row(_LAYER + "feed_forward.down.bias", _THEIRS + "mlp.c_proj.bias", "d -> d"),
    ),
    IGNORED,
    EMBEDDING,
)


def _published(keys: Keys, eps: float) -> None:
    """Takes what the published configs repeat in other words, and nobody reads."""
    keys.neutral("layer_norm_epsilon", (eps, None))
    keys.neutral("activation_function", ("gelu", None))  # the model goes by hidden_act
    keys.neutral("mlp_type", ("default",))
    keys.neutral("norm_type", ("layer_norm",))
    keys.neutral("scale_attn_weights", (True,))
    keys.take("attention_softmax_in_fp32", None)
    keys.take("scale_attention_softmax_in_fp32", None)


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `Starcoder2Config`'s keys; defaults are Transformers'."""
    eps = float(keys.number("norm_epsilon", 1e-5))
    _published(keys, eps)
    sizes, norm = Sizes.of(keys, 3072, 30, 24, kv_heads=2), config.LayerNorm(eps)
    position, context = rotary(keys, keys.size("max_position_embeddings", 4096), sizes.head_dim)
    bias, window = keys.flag("use_bias", True), keys.size_or_none("sliding_window", None)
    attention = sizes.attention(position, bias=bias, output_bias=bias, window=window)
    activation = keys.choice("hidden_act", ACTIVATIONS, "gelu_pytorch_tanh")
    feed_forward = config.FeedForward(keys.size("intermediate_size", 12288), activation, gated=False, bias=bias)
    block = config.Block(norm, attention, feed_forward)
    return decoder(keys, sizes, [block], norm, context, vocab_size=49152, tied=True, eos=50256)
