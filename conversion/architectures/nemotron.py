"""Nemotron and Minitron: layer norms whose weights are stored less one, squared ReLUs, half of each head turned."""

from conversion.activations import ACTIVATIONS
from conversion.architectures.llama import ATTENTION, EMBEDDING, ENDS, FEED_FORWARD, IGNORED, NORMS
from conversion.architectures.stablelm import NORM_BIASES
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.sizes import Sizes, decoder
from conversion.table import Table
from jaxllm import config

TABLE = Table(ENDS + NORMS + NORM_BIASES + ATTENTION + FEED_FORWARD, IGNORED, EMBEDDING)


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `NemotronConfig`'s keys; defaults are Transformers'."""
    sizes = Sizes.of(keys, dim=6144, heads=48)
    norm = config.LayerNorm(float(keys.number("norm_eps", 1e-5)), offset=1.0)
    length, fraction = keys.size("max_position_embeddings", 4096), keys.peek("partial_rotary_factor") or 0.5
    for name in ("rope_percent", "rope_percentage"):  # first names, which not every Transformers heeds
        keys.neutral(name, (fraction, None))
    position, context = rotary(keys, length, sizes.head_dim, fraction=0.5)
    bias, activation = keys.flag("attention_bias", False), keys.choice("hidden_act", ACTIVATIONS, "relu2")
    hidden, mlp_bias = keys.size("intermediate_size", 24576), keys.flag("mlp_bias", False)
    block = config.Block(
        norm,
        sizes.attention(position, bias=bias, output_bias=bias),
        config.FeedForward(hidden, activation, gated=False, bias=mlp_bias),
    )
    return decoder(keys, sizes, [block], norm, context, vocab_size=256000, eos=3)
