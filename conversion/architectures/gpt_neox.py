"""GPT-NeoX and Pythia: parallel attention and feed-forward with a norm each, and partial rotary embeddings."""

from dataclasses import replace

from conversion.architectures.bloom import linear_maps, megatron_norms
from conversion.architectures.gpt2 import gpt_sizes
from conversion.builders import ACTIVATIONS, ConfigReader, Sizes, decoder, rotary
from conversion.table import TableRow, WeightTable
from jaxllm.config import (
    BlockConfig,
    DecoderConfig,
    FeedForwardConfig,
    LayerNormConfig,
    ParallelBlockConfig,
    RotaryConfig,
)

USUAL = ("hidden_size", "num_hidden_layers", "num_attention_heads")


def table(model: str, output_bias: str = "dense.bias") -> WeightTable:
    """Returns the weight table of a model whose tensors begin with `model`.

    `output_bias` is the name of the bias of the attention output.
    """
    theirs = model + ".layers.{i}."
    maps = linear_maps(theirs + "attention.", theirs + "mlp.")
    return WeightTable(
        rows=(
            TableRow("embedding.weight", model + ".embed_in.weight", "v d -> v d"),
            TableRow("norm.weight", model + ".final_layer_norm.weight", "d -> d"),
            TableRow("norm.bias", model + ".final_layer_norm.bias", "d -> d"),
            TableRow("head.weight", "embed_out.weight", "v d -> v d"),
            *megatron_norms(theirs),
            *(replace(row, source=row.source.replace("dense.bias", output_bias)) for row in maps),
        ),
        ignored={
            theirs + "attention.bias": "the causal mask",
            theirs + "attention.masked_bias": "the value behind the causal mask",
            theirs + "attention.rotary_emb.inv_freq": "computed from the config",
        },
        embedding=model + ".embed_in.weight",
        head="embed_out.weight",
    )


CLASS = "GPTNeoXForCausalLM"
TABLE = table("gpt_neox")


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `GPTNeoXConfig`; defaults are those of Transformers."""
    sizes = gpt_sizes(reader, 6144, 44, 64, USUAL)
    position, context = neox_rotary(reader, sizes, 0.25)
    bias = reader.flag("attention_bias", True)
    attention = sizes.attention(position, bias=bias, output_bias=bias)
    activation = reader.choice("hidden_act", ACTIVATIONS, "gelu")
    feed_forward = FeedForwardConfig(reader.size("intermediate_size", 24576), activation, gated=False, bias=True)
    norm = LayerNormConfig(float(reader.number("layer_norm_eps", 1e-5)))
    if reader.flag("use_parallel_residual", True):
        block = ParallelBlockConfig(attention, feed_forward, pre_norm=norm, shared_norm=False)
    else:
        block = BlockConfig(attention, feed_forward, pre_norm=norm)
    return decoder(reader, sizes, [block], norm, context, vocab_size=50432, eos=2)


def neox_rotary(reader: ConfigReader, sizes: Sizes, fraction: float) -> tuple[RotaryConfig, int]:
    """Builds rotary embeddings from `rotary_emb_base` and `rotary_pct`. Also returns the maximum length.

    Newer files repeat the two under the usual names, which Transformers does not heed.
    """
    theta = reader.number("rotary_emb_base", 10_000.0)
    fraction = reader.number("rotary_pct", fraction)
    reader.neutral("rope_theta", (theta, None))
    reader.neutral("partial_rotary_factor", (fraction, None))
    length = reader.size("max_position_embeddings", 2048)
    return rotary(reader, length, sizes.head_dim, theta=theta, fraction=fraction)
