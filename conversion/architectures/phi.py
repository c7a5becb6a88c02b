"""Phi-1, 1.5 and 2: attention and feed-forward side by side after one norm, partly rotary positions, and biases."""

from dataclasses import replace

from conversion.activations import ACTIVATIONS
from conversion.architectures.bloom import megatron_norms
from conversion.architectures.llama import ATTENTION, EMBEDDING, ENDS, IGNORED
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.rows import plain_feed_forward
from conversion.sizes import Sizes, decoder
from conversion.table import Row, Table
from jaxllm import config

_LAYER, _THEIRS = "layers.{i}.", "model.layers.{i}."

# What Persimmon's table has too.
OUTER = (
    *(row for row in ENDS if not row.theirs.startswith("model.norm")),
    Row("norm.weight", "model.final_layernorm.weight", "d -> d"),
    Row("norm.bias", "model.final_layernorm.bias", "d -> d"),
    *megatron_norms(_THEIRS),
    *(
        Row(f"{_LAYER}attention.{ours}_norm.{kind}", f"{_THEIRS}self_attn.{theirs}_layernorm.{kind}", "h -> h")
        for ours, theirs in (("query", "q"), ("key", "k"))
        for kind in ("weight", "bias")
    ),
)
_LINEAR_MAPS = (
    *(replace(row, theirs=row.theirs.replace("o_proj", "dense")) for row in ATTENTION),
    *plain_feed_forward(_THEIRS + "mlp.fc1", _THEIRS + "mlp.fc2"),
    Row("head.bias", "lm_head.bias", "v -> v"),
)
TABLE = Table(OUTER + _LINEAR_MAPS, IGNORED, EMBEDDING)


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `PhiConfig`'s keys; defaults are Transformers'."""
    sizes, length = Sizes.of(keys, dim=2048, layers=24), keys.size("max_position_embeddings", 2048)
    norm, attention, context = normed_attention(keys, sizes, length, normed=False)
    activation = keys.choice("hidden_act", ACTIVATIONS, "gelu_new")
    feed_forward = config.FeedForward(keys.size("intermediate_size", 8192), activation, gated=False, bias=True)
    block = config.ParallelBlock(norm, attention, feed_forward)
    return decoder(keys, sizes, [block], norm, context, vocab_size=51200, eos=2, head_bias=True)


def normed_attention(
    keys: Keys, sizes: Sizes, length: int, *, normed: bool
) -> tuple[config.LayerNorm, config.Attention, int]:
    """The norm, half-rotary attention with the same norm of its heads where asked for, and the context."""
    norm = config.LayerNorm(float(keys.number("layer_norm_eps", 1e-5)))
    position, context = rotary(keys, length, sizes.head_dim, fraction=0.5)
    head_norm = config.HeadNorm(norm) if keys.flag("qk_layernorm", normed) else None
    return norm, sizes.attention(position, bias=True, output_bias=True, head_norm=head_norm), context
