"""GPT-NeoX and Pythia: attention and feed-forward side by side, each after a norm, and partly rotary positions."""

from dataclasses import replace

from conversion.activations import ACTIVATIONS
from conversion.architectures.bloom import linear_maps, megatron_norms
from conversion.architectures.gpt2 import gpt_sizes
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.sizes import Sizes, decoder
from conversion.table import Row, Table
from jaxllm import config

USUAL = ("hidden_size", "num_hidden_layers", "num_attention_heads")


def table(model: str, output_bias: str = "dense.bias") -> Table:
    """The table of a model of that name; `output_bias` is what the bias of attention's output is called."""
    theirs = model + ".layers.{i}."
    maps = linear_maps(theirs + "attention.", theirs + "mlp.")
    return Table(
        rows=(
            Row("embedding.weight", model + ".embed_in.weight", "v d -> v d"),
            Row("norm.weight", model + ".final_layer_norm.weight", "d -> d"),
            Row("norm.bias", model + ".final_layer_norm.bias", "d -> d"),
            Row("head.weight", "embed_out.weight", "v d -> v d"),
            *megatron_norms(theirs),
            *(replace(row, theirs=row.theirs.replace("dense.bias", output_bias)) for row in maps),
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


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `GPTNeoXConfig`'s keys; defaults are Transformers'."""
    sizes = gpt_sizes(keys, 6144, 44, 64, USUAL)
    position, context = neox_rotary(keys, sizes, 0.25)
    bias = keys.flag("attention_bias", True)
    attention = sizes.attention(position, bias=bias, output_bias=bias)
    activation = keys.choice("hidden_act", ACTIVATIONS, "gelu")
    feed_forward = config.FeedForward(keys.size("intermediate_size", 24576), activation, gated=False, bias=True)
    norm = config.LayerNorm(float(keys.number("layer_norm_eps", 1e-5)))
    if keys.flag("use_parallel_residual", True):
        block = config.ParallelBlock(norm, attention, feed_forward, shared=False)
    else:
        block = config.Block(norm, attention, feed_forward)
    return decoder(keys, sizes, [block], norm, context, vocab_size=50432, eos=2)


def neox_rotary(keys: Keys, sizes: Sizes, fraction: float) -> tuple[config.Rotary, int]:
    """Rotary positions from `rotary_emb_base` and `rotary_pct`, and the context.

    Newer files repeat the two under the usual names, which Transformers does not heed.
    """
    theta, fraction = keys.number("rotary_emb_base", 10_000.0), keys.number("rotary_pct", fraction)
    keys.neutral("rope_theta", (theta, None))
    keys.neutral("partial_rotary_factor", (fraction, None))
    length = keys.size("max_position_embeddings", 2048)
    return rotary(keys, length, sizes.head_dim, theta=theta, fraction=fraction)
