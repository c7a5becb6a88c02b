"""StarCoder 2: layer norms, biases throughout, an ungated feed-forward network, and an optional sliding window."""

from conversion.architectures.llama import ATTENTION, EMBEDDING, EMBEDDING_AND_HEAD, IGNORED, NORMS
from conversion.architectures.stablelm import NORM_BIASES
from conversion.builders import ACTIVATIONS, ConfigReader, Sizes, decoder, rotary
from conversion.table import WeightTable, ungated_feed_forward_rows
from jaxllm.config import BlockConfig, DecoderConfig, FeedForwardConfig, LayerNormConfig

_THEIRS = "model.layers.{i}.mlp."

TABLE = WeightTable(
    EMBEDDING_AND_HEAD
    + NORMS
    + ATTENTION
    + NORM_BIASES
    + ungated_feed_forward_rows(_THEIRS + "c_fc", _THEIRS + "c_proj"),
    IGNORED,
    EMBEDDING,
)


def _published(reader: ConfigReader, eps: float) -> None:
    """Takes what the published configs repeat in other words, and nobody reads."""
    reader.neutral("layer_norm_epsilon", (eps, None))
    reader.neutral("activation_function", ("gelu", None))  # the model goes by hidden_act
    reader.neutral("mlp_type", ("default",))
    reader.neutral("norm_type", ("layer_norm",))
    reader.neutral("scale_attn_weights", (True,))
    reader.take("attention_softmax_in_fp32", None)
    reader.take("scale_attention_softmax_in_fp32", None)


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `Starcoder2Config`; defaults are those of Transformers."""
    eps = float(reader.number("norm_epsilon", 1e-5))
    _published(reader, eps)
    sizes = Sizes.of(reader, 3072, 30, 24, kv_heads=2)
    norm = LayerNormConfig(eps)
    position, context = rotary(reader, reader.size("max_position_embeddings", 4096), sizes.head_dim)
    bias = reader.flag("use_bias", True)
    window = reader.size_or_none("sliding_window", None)
    attention = sizes.attention(position, bias=bias, output_bias=bias, window=window)
    activation = reader.choice("hidden_act", ACTIVATIONS, "gelu_pytorch_tanh")
    feed_forward = FeedForwardConfig(reader.size("intermediate_size", 12288), activation, gated=False, bias=bias)
    block = BlockConfig(attention, feed_forward, pre_norm=norm)
    return decoder(reader, sizes, [block], norm, context, vocab_size=49152, tied=True, eos=50256)
