"""GPT-NeoX Japanese: sequential GPT-NeoX with one bias, on the output of the last layer's attention."""

from dataclasses import replace

from conversion.architectures.gpt2 import gpt_sizes
from conversion.architectures.gpt_neox import USUAL, neox_rotary, table
from conversion.builders import ACTIVATIONS, ConfigReader, decoder
from jaxllm.config import BlockConfig, DecoderConfig, FeedForwardConfig, LayerNormConfig

CLASS = "GPTNeoXJapaneseForCausalLM"
TABLE = table("gpt_neox_japanese", output_bias="dense_bias")


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `GPTNeoXJapaneseConfig`; defaults are those of Transformers."""
    sizes = gpt_sizes(reader, 2560, 32, 32, USUAL)
    position, context = neox_rotary(reader, sizes, 1.0)
    activation = reader.choice("hidden_act", ACTIVATIONS, "gelu")
    times = reader.size("intermediate_multiple_size", 4)
    feed_forward = FeedForwardConfig(times * sizes.dim, activation, gated=False)
    norm = LayerNormConfig(float(reader.number("layer_norm_eps", 1e-5)))
    attention = sizes.attention(position)
    block = BlockConfig(attention, feed_forward, pre_norm=norm)
    last = replace(block, attention=replace(attention, output_bias=True))
    blocks = [block] * (sizes.layers - 1) + [last]
    return decoder(reader, sizes, blocks, norm, context, vocab_size=32000, tied=True, eos=31999)
