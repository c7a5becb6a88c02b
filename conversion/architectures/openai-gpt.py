"""The first GPT: learned positions, and layers that are normalised after each addition, hence no norm at the end."""

from conversion.architectures.gpt2 import CONV1D, IGNORED, NORMS, gpt_context, gpt_sizes, layer_norm
from conversion.keys import Keys
from conversion.sizes import decoder
from conversion.table import Row, Table
from jaxllm import config

ACTIVATIONS = {"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}  # its gelu is the approximate one
ENDS = (
    Row("embedding.weight", "transformer.tokens_embed.weight", "v d -> v d"),
    Row("position.weight", "transformer.positions_embed.weight", "p d -> p d"),
    Row("head.weight", "lm_head.weight", "v d -> v d"),
)
CLASS = "OpenAIGPTLMHeadModel"
TABLE = Table(
    ENDS + NORMS + CONV1D,
    IGNORED | {"transformer.position_ids": "the numbers of the positions"},
    embedding="transformer.tokens_embed.weight",
    prefix="transformer.",
)


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `OpenAIGPTConfig`'s keys; defaults are Transformers'."""
    sizes, length = gpt_sizes(keys, 768, 12, 12), gpt_context(keys, 512)
    activation = keys.choice("afn", ACTIVATIONS, "gelu")
    feed_forward = config.FeedForward(4 * sizes.dim, activation, gated=False, bias=True)
    attention = sizes.attention(None, bias=True, output_bias=True)
    block = config.Block(layer_norm(keys), attention, feed_forward, placement="after")
    position = config.LearnedPosition(length)
    return decoder(keys, sizes, [block], None, length, vocab_size=40478, tied=True, eos=None, position=position)
