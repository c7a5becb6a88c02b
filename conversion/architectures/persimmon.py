"""Persimmon: Megatron's fused heads with norms of their own, half-rotary positions, and the square of ReLU."""

from conversion.activations import ACTIVATIONS
from conversion.architectures.bloom import linear_maps
from conversion.architectures.gpt2 import gpt_sizes
from conversion.architectures.llama import EMBEDDING, IGNORED
from conversion.architectures.opt import USUAL
from conversion.architectures.phi import OUTER, normed_attention
from conversion.keys import Keys
from conversion.sizes import decoder
from conversion.table import Table
from jaxllm import config

TABLE = Table(OUTER + linear_maps("model.layers.{i}.self_attn.", "model.layers.{i}.mlp."), IGNORED, EMBEDDING)


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `PersimmonConfig`'s keys; defaults are Transformers'."""
    sizes, length = gpt_sizes(keys, 4096, 36, 64, USUAL), keys.size("max_position_embeddings", 16384)
    keys.neutral("num_key_value_heads", (sizes.heads, None))
    norm, attention, context = normed_attention(keys, sizes, length, normed=True)
    activation = keys.choice("hidden_act", ACTIVATIONS, "relu2")
    feed_forward = config.FeedForward(keys.size("intermediate_size", 16384), activation, gated=False, bias=True)
    block = config.Block(norm, attention, feed_forward)
    return decoder(keys, sizes, [block], norm, context, vocab_size=262144, eos=2)
