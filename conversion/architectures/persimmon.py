"""Persimmon: a fused projection by head, QK norm, partial rotary embeddings and squared ReLU."""

from conversion.architectures.bloom import linear_maps
from conversion.architectures.gpt2 import gpt_sizes
from conversion.architectures.llama import EMBEDDING, IGNORED
from conversion.architectures.opt import USUAL
from conversion.architectures.phi import OUTER, normed_attention
from conversion.builders import ACTIVATIONS, ConfigReader, decoder
from conversion.table import WeightTable
from jaxllm.config import BlockConfig, DecoderConfig, FeedForwardConfig

TABLE = WeightTable(OUTER + linear_maps("model.layers.{i}.self_attn.", "model.layers.{i}.mlp."), IGNORED, EMBEDDING)


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `PersimmonConfig`; defaults are those of Transformers."""
    sizes = gpt_sizes(reader, 4096, 36, 64, USUAL)
    length = reader.size("max_position_embeddings", 16384)
    reader.neutral("num_key_value_heads", (sizes.heads, None))
    norm, attention, context = normed_attention(reader, sizes, length, normed=True)
    activation = reader.choice("hidden_act", ACTIVATIONS, "relu2")
    feed_forward = FeedForwardConfig(reader.size("intermediate_size", 16384), activation, gated=False, bias=True)
    block = BlockConfig(attention, feed_forward, pre_norm=norm)
    return decoder(reader, sizes, [block], norm, context, vocab_size=262144, eos=2)
