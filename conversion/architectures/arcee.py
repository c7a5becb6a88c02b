"""Arcee's AFM: a Llama with a plain feed-forward network of squared ReLUs."""

from conversion.activations import ACTIVATIONS
from conversion.architectures.llama import TABLE
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.sizes import Sizes, decoder, rms_norm
from jaxllm import config

__all__ = ["TABLE", "from_hf"]


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `ArceeConfig`'s keys; defaults are Transformers'."""
    sizes, norm = Sizes.of(keys, 2560), rms_norm(keys, 1e-5)
    position, context = rotary(keys, keys.size("max_position_embeddings", 4096), sizes.head_dim)
    bias = keys.flag("attention_bias", False)
    attention = sizes.attention(position, bias=bias, output_bias=bias)
    hidden, activation = keys.size("intermediate_size", 18432), keys.choice("hidden_act", ACTIVATIONS, "relu2")
    feed_forward = config.FeedForward(hidden, activation, gated=False, bias=keys.flag("mlp_bias", False))
    block = config.Block(norm, attention, feed_forward)
    return decoder(keys, sizes, [block], norm, context, vocab_size=32000, eos=128001)
