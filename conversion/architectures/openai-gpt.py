"""GPT: learned positions and post-norm layers, without a final norm."""

from conversion.architectures.gpt2 import CONV1D, IGNORED, gpt_context, gpt_sizes, layer_norm
from conversion.builders import ConfigReader, decoder
from conversion.table import TableRow, WeightTable, layer_norm_rows
from jaxllm.config import BlockConfig, DecoderConfig, FeedForwardConfig, LearnedPositionConfig

ACTIVATIONS = {"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}  # "gelu" is the tanh form
EMBEDDING_AND_HEAD = (
    TableRow("embedding.weight", "transformer.tokens_embed.weight", "v d -> v d"),
    TableRow("position.weight", "transformer.positions_embed.weight", "p d -> p d"),
    TableRow("head.weight", "lm_head.weight", "v d -> v d"),
)
NORMS = layer_norm_rows("transformer.h.{i}.ln_1", "transformer.h.{i}.ln_2", "post_norm")
CLASS = "OpenAIGPTLMHeadModel"
TABLE = WeightTable(
    EMBEDDING_AND_HEAD + NORMS + CONV1D,
    IGNORED | {"transformer.position_ids": "the numbers of the positions"},
    embedding="transformer.tokens_embed.weight",
    prefix="transformer.",
)


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `OpenAIGPTConfig`; defaults are those of Transformers."""
    sizes = gpt_sizes(reader, 768, 12, 12)
    length = gpt_context(reader, 512)
    activation = reader.choice("afn", ACTIVATIONS, "gelu")
    feed_forward = FeedForwardConfig(4 * sizes.dim, activation, gated=False, bias=True)
    attention = sizes.attention(None, bias=True, output_bias=True)
    block = BlockConfig(attention, feed_forward, post_norm=layer_norm(reader))
    position = LearnedPositionConfig(length)
    return decoder(reader, sizes, [block], None, length, vocab_size=40478, tied=True, eos=None, position=position)
