"""Falcon: parallel attention and feed-forward after one or two norms, with few key-value heads.

The first models (Falcon-RW) are sequential and have as many key-value heads as query heads.
"""

from dataclasses import replace

from conversion.architectures.bloom import EMBEDDING, EMBEDDING_AND_HEAD, LINEAR_MAPS, megatron_norms
from conversion.architectures.gpt2 import gpt_sizes, layer_norm
from conversion.builders import ACTIVATIONS, ConfigReader, Sizes, bloom_slopes, decoder, rotary
from conversion.table import WeightTable, layer_norm_rows
from jaxllm.config import (
    ALiBiConfig,
    AttentionConfig,
    BlockConfig,
    DecoderConfig,
    FeedForwardConfig,
    NormConfig,
    ParallelBlockConfig,
)
from jaxllm.errors import InputError

_THEIRS = "transformer.h.{i}."


def _two_norms(block: BlockConfig | ParallelBlockConfig) -> bool:
    return isinstance(block, ParallelBlockConfig) and not block.shared_norm


_NORMS = tuple(replace(row, applies_to=lambda block: not _two_norms(block)) for row in megatron_norms(_THEIRS))
_PARALLEL_NORMS = tuple(
    replace(row, applies_to=_two_norms) for row in layer_norm_rows(_THEIRS + "ln_attn", _THEIRS + "ln_mlp")
)

TABLE = WeightTable(EMBEDDING_AND_HEAD + _NORMS + _PARALLEL_NORMS + LINEAR_MAPS, {}, EMBEDDING, prefix="transformer.")


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `FalconConfig`; defaults are those of Transformers.

    Early configs of Falcon-40B have `n_head_kv` and no `new_decoder_architecture`, which it implies.
    """
    reader.neutral("apply_residual_connection_post_layernorm", (False,))
    reader.neutral("ff_factor", (4, None))
    reader.alias("hidden_size", "n_embed")
    first = reader.size_or_none("n_head_kv", None)
    new = reader.flag("new_decoder_architecture", first is not None)
    sizes = gpt_sizes(reader, 4544, 32, 71, ("hidden_size", "n_layer", "n_head"))
    kv_heads = reader.size_or_none("num_kv_heads", first) or sizes.heads
    shared = reader.flag("multi_query", True)
    sizes = replace(sizes, kv_heads=1 if shared and not new else kv_heads)
    attention, context = _attention(reader, sizes)
    activation = reader.choice("activation", ACTIVATIONS, "gelu")
    hidden = reader.size("ffn_hidden_size", 4 * sizes.dim)
    feed_forward = FeedForwardConfig(hidden, activation, gated=False, bias=attention.bias)
    block = _block(reader, new, layer_norm(reader), attention, feed_forward)
    return decoder(reader, sizes, [block], block.pre_norm, context, vocab_size=65024, tied=True, eos=11)


def _attention(reader: ConfigReader, sizes: Sizes) -> tuple[AttentionConfig, int]:
    """Builds the attention config. Also returns the maximum length."""
    position, context = rotary(reader, reader.size("max_position_embeddings", 2048), sizes.head_dim)
    if reader.flag("alibi", False):
        position = ALiBiConfig(bloom_slopes(sizes.heads), sizes.head_dim**-0.5, bfloat16=True)
    bias = reader.flag("bias", False)
    return sizes.attention(position, bias=bias, output_bias=bias), context


def _block(
    reader: ConfigReader, new: bool, norm: NormConfig, attention: AttentionConfig, feed_forward: FeedForwardConfig
) -> BlockConfig | ParallelBlockConfig:
    """Builds the layer. Two norms need the new architecture, and a sequential layer the old one."""
    parallel = reader.flag("parallel_attn", True)
    norms = reader.size("num_ln_in_parallel_attn", 2 if new else 1)
    if not parallel and not new:
        return BlockConfig(attention, feed_forward, pre_norm=norm)
    if not parallel or norms > (2 if new else 1):
        raise InputError(
            f"config.json: parallel_attn={parallel} and num_ln_in_parallel_attn={norms} do not go with "
            f"new_decoder_architecture={new}"
        )
    return ParallelBlockConfig(attention, feed_forward, pre_norm=norm, shared_norm=norms == 1)
