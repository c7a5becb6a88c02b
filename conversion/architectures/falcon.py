"""Falcon: attention and feed-forward side by side after one norm or two, and few key-value heads; at first, neither."""

from dataclasses import replace

from conversion.activations import ACTIVATIONS
from conversion.alibi import bloom_slopes
from conversion.architectures.bloom import EMBEDDING, ENDS, LINEAR_MAPS, megatron_norms
from conversion.architectures.gpt2 import gpt_sizes, layer_norm
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.rows import layer_norms
from conversion.sizes import Sizes, decoder
from conversion.table import Table
from jaxllm import config
from jaxllm.errors import InputError

_THEIRS = "transformer.h.{i}."


def _two_norms(block: config.Block | config.ParallelBlock) -> bool:
    return isinstance(block, config.ParallelBlock) and not block.shared


_NORMS = tuple(replace(row, where=lambda block: not _two_norms(block)) for row in megatron_norms(_THEIRS))
_PARALLEL_NORMS = tuple(replace(row, where=_two_norms) for row in layer_norms(_THEIRS + "ln_attn", _THEIRS + "ln_mlp"))

TABLE = Table(ENDS + _NORMS + _PARALLEL_NORMS + LINEAR_MAPS, {}, EMBEDDING, prefix="transformer.")


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `FalconConfig`'s keys; defaults are Transformers'.

    The key `n_head_kv` is the 40B's first spelling, which had no other word for its form.
    """
    keys.neutral("apply_residual_connection_post_layernorm", (False,))
    keys.neutral("ff_factor", (4, None))
    keys.alias("hidden_size", "n_embed")
    first = keys.size_or_none("n_head_kv", None)
    new = keys.flag("new_decoder_architecture", first is not None)
    sizes = gpt_sizes(keys, 4544, 32, 71, ("hidden_size", "n_layer", "n_head"))
    kv_heads, shared = keys.size_or_none("num_kv_heads", first) or sizes.heads, keys.flag("multi_query", True)
    sizes = replace(sizes, kv_heads=1 if shared and not new else kv_heads)
    attention, context = _attention(keys, sizes)
    activation, hidden = keys.choice("activation", ACTIVATIONS, "gelu"), keys.size("ffn_hidden_size", 4 * sizes.dim)
    feed_forward = config.FeedForward(hidden, activation, gated=False, bias=attention.bias)
    block = _block(keys, new, layer_norm(keys), attention, feed_forward)
    return decoder(keys, sizes, [block], block.norm, context, vocab_size=65024, tied=True, eos=11)


def _attention(keys: Keys, sizes: Sizes) -> tuple[config.Attention, int]:
    """Attention and the context."""
    position, context = rotary(keys, keys.size("max_position_embeddings", 2048), sizes.head_dim)
    if keys.flag("alibi", False):
        position = config.Alibi(bloom_slopes(sizes.heads), sizes.head_dim**-0.5, bfloat16=True)
    bias = keys.flag("bias", False)
    return sizes.attention(position, bias=bias, output_bias=bias), context


def _block(
    keys: Keys, new: bool, norm: config.Norm, attention: config.Attention, feed_forward: config.FeedForward
) -> config.Block | config.ParallelBlock:
    """The layer: only the new architecture knows two norms, and only the old one a sequence."""
    parallel, norms = keys.flag("parallel_attn", True), keys.size("num_ln_in_parallel_attn", 2 if new else 1)
    if not parallel and not new:
        return config.Block(norm, attention, feed_forward)
    if not parallel or norms > (2 if new else 1):
        raise InputError(
            f"config.json: parallel_attn={parallel} and num_ln_in_parallel_attn={norms} do not go with "
            f"new_decoder_architecture={new}"
        )
    return config.ParallelBlock(norm, attention, feed_forward, shared=norms == 1)
