"""StarCoder 2: layer norms, biases throughout, a plain feed-forward network, attention that may slide."""

from conversion.activations import ACTIVATIONS
from conversion.architectures.llama import ATTENTION, EMBEDDING, ENDS, IGNORED, NORMS
from conversion.architectures.stablelm import NORM_BIASES
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.rows import plain_feed_forward
from conversion.sizes import Sizes, decoder
from conversion.table import Table
from jaxllm import config

_THEIRS = "model.layers.{i}.mlp."

TABLE = Table(
    ENDS + NORMS + ATTENTION + NORM_BIASES + plain_feed_forward(_THEIRS + "c_fc", _THEIRS + "c_proj"),
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
