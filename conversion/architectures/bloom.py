"""BLOOM: ALiBi, a norm after the embedding, and a fused projection that interleaves query, key and value by head."""

from conversion.architectures.gpt2 import QKV_BIAS, QKV_WEIGHT, gpt_sizes, layer_norm
from conversion.builders import ConfigReader, bloom_slopes, decoder
from conversion.table import TableRow, WeightTable, layer_norm_rows, ungated_feed_forward_rows
from jaxllm.config import ALiBiConfig, BlockConfig, DecoderConfig, FeedForwardConfig

_LAYER = "layers.{i}."
_THEIRS = "transformer.h.{i}."


def linear_maps(attention: str, feed_forward: str) -> tuple[TableRow, ...]:
    """Returns the rows of a layer's linear maps. As in Megatron, the fused projection is ordered by key-value group."""
    return (
        TableRow(QKV_WEIGHT, attention + "query_key_value.weight", "(k g h) d -> (k g) h d", split_axis="g"),
        TableRow(QKV_BIAS, attention + "query_key_value.bias", "(k g h) -> (k g) h", split_axis="g"),
        TableRow(_LAYER + "attention.output.weight", attention + "dense.weight", "d (n h) -> d n h"),
        TableRow(_LAYER + "attention.output.bias", attention + "dense.bias", "d -> d"),
        *ungated_feed_forward_rows(feed_forward + "dense_h_to_4h", feed_forward + "dense_4h_to_h"),
    )


def megatron_norms(theirs: str) -> tuple[TableRow, ...]:
    """Returns the rows of the norms before attention and feed-forward."""
    return layer_norm_rows(theirs + "input_layernorm", theirs + "post_attention_layernorm")


EMBEDDING = "transformer.word_embeddings.weight"
EMBEDDING_AND_HEAD = (
    TableRow("embedding.weight", EMBEDDING, "v d -> v d"),
    TableRow("embed_norm.weight", "transformer.word_embeddings_layernorm.weight", "d -> d"),
    TableRow("embed_norm.bias", "transformer.word_embeddings_layernorm.bias", "d -> d"),
    TableRow("norm.weight", "transformer.ln_f.weight", "d -> d"),
    TableRow("norm.bias", "transformer.ln_f.bias", "d -> d"),
    TableRow("head.weight", "lm_head.weight", "v d -> v d"),
)
LINEAR_MAPS = linear_maps(_THEIRS + "self_attention.", _THEIRS + "mlp.")

TABLE = WeightTable(EMBEDDING_AND_HEAD + megatron_norms(_THEIRS) + LINEAR_MAPS, {}, EMBEDDING, prefix="transformer.")

# Ways to compute the same, and remains of the training's own options.
_WITHOUT_EFFECT = (
    "attention_softmax_in_fp32 masked_softmax_fusion bias_dropout_fusion skip_bias_add skip_bias_add_qkv offset_alibi"
)


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `BloomConfig`; defaults are those of Transformers."""
    for name in _WITHOUT_EFFECT.split():
        reader.take(name, None)
    reader.neutral("apply_residual_connection_post_layernorm", (False,))
    reader.neutral("n_inner", (None,))
    # With shares to sum, Transformers' slow way leaves the biases out.
    reader.neutral("slow_but_exact", (False,) if reader.size("pretraining_tp", 1) > 1 else (False, True))
    reader.alias("hidden_size", "n_embed")
    sizes = gpt_sizes(reader, 64, 2, 8, ("hidden_size", "n_layer", "n_head"))
    norm = layer_norm(reader)
    context = reader.size("seq_length", 2048)
    attention = sizes.attention(ALiBiConfig(bloom_slopes(sizes.heads)), bias=True, output_bias=True)
    feed_forward = FeedForwardConfig(4 * sizes.dim, "gelu_tanh", gated=False, bias=True)
    block = BlockConfig(attention, feed_forward, pre_norm=norm)
    return decoder(reader, sizes, [block], norm, context, vocab_size=250880, tied=True, eos=2, embed_norm=norm)
