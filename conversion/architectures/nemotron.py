"""Nemotron and Minitron: layer norms with weights stored minus one, squared ReLU, and partial rotary embeddings."""

from conversion.architectures.llama import ATTENTION, EMBEDDING, EMBEDDING_AND_HEAD, FEED_FORWARD, IGNORED, NORMS
from conversion.architectures.stablelm import NORM_BIASES
from conversion.builders import ACTIVATIONS, ConfigReader, Sizes, decoder, rotary
from conversion.table import WeightTable
from jaxllm.config import BlockConfig, DecoderConfig, FeedForwardConfig, LayerNormConfig

TABLE = WeightTable(EMBEDDING_AND_HEAD + NORMS + NORM_BIASES + ATTENTION + FEED_FORWARD, IGNORED, EMBEDDING)


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `NemotronConfig`; defaults are those of Transformers."""
    sizes = Sizes.of(reader, dim=6144, heads=48)
    norm = LayerNormConfig(float(reader.number("norm_eps", 1e-5)), offset=1.0)
    length = reader.size("max_position_embeddings", 4096)
    fraction = reader.peek("partial_rotary_factor") or 0.5
    for name in ("rope_percent", "rope_percentage"):  # first names, which not every Transformers heeds
        reader.neutral(name, (fraction, None))
    position, context = rotary(reader, length, sizes.head_dim, fraction=0.5)
    bias = reader.flag("attention_bias", False)
    activation = reader.choice("hidden_act", ACTIVATIONS, "relu2")
    hidden = reader.size("intermediate_size", 24576)
    mlp_bias = reader.flag("mlp_bias", False)
    block = BlockConfig(
        sizes.attention(position, bias=bias, output_bias=bias),
        FeedForwardConfig(hidden, activation, gated=False, bias=mlp_bias),
        pre_norm=norm,
    )
    return decoder(reader, sizes, [block], norm, context, vocab_size=256000, eos=3)
