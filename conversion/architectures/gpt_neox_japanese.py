"""GPT-NeoX Japanese: a GPT-NeoX one branch after the other, without biases but for the last layer's attention."""

from dataclasses import replace

from conversion.activations import ACTIVATIONS
from conversion.architectures.gpt2 import gpt_sizes
from conversion.architectures.gpt_neox import USUAL, neox_rotary, table
from conversion.keys import Keys
from conversion.sizes import decoder
from jaxllm import config

CLASS = "GPTNeoXJapaneseForCausalLM"
TABLE = table("gpt_neox_japanese", output_bias="dense_bias")


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `GPTNeoXJapaneseConfig`'s keys; defaults are Transformers'."""
    sizes = gpt_sizes(keys, 2560, 32, 32, USUAL)
    position, context = neox_rotary(keys, sizes, 1.0)
    activation, times = keys.choice("hidden_act", ACTIVATIONS, "gelu"), keys.size("intermediate_multiple_size", 4)
    feed_forward = config.FeedForward(times * sizes.dim, activation, gated=False)
    norm, attention = config.LayerNorm(float(keys.number("layer_norm_eps", 1e-5))), sizes.attention(position)
    block = config.Block(norm, attention, feed_forward)
    last = replace(block, attention=replace(attention, output_bias=True))
    blocks = [block] * (sizes.layers - 1) + [last]
    return decoder(keys, sizes, blocks, norm, context, vocab_size=32000, tied=True, eos=31999)
