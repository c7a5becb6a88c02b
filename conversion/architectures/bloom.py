"""BLOOM: ALiBi in place of positions, a norm behind the embedding, and queries, keys and values fused head by head."""

from conversion.alibi import bloom_slopes
from conversion.architectures.gpt2 import QKV_BIAS, QKV_WEIGHT, gpt_sizes, layer_norm
from conversion.keys import Keys
from conversion.rows import layer_norms, plain_feed_forward
from conversion.sizes import decoder
from conversion.table import Row, Table
from jaxllm import config

_LAYER, _THEIRS = "layers.{i}.", "transformer.h.{i}."


def linear_maps(attention: str, feed_forward: str) -> tuple[Row, ...]:
    """The rows of a layer's linear maps, Megatron's way: every group has its queries, its key and its value."""
    return (
        Row(QKV_WEIGHT, attention + "query_key_value.weight", "(k g h) d -> (k g) h d", along="g"),
        Row(QKV_BIAS, attention + "query_key_value.bias", "(k g h) -> (k g) h", along="g"),
        Row(_LAYER + "attention.output.weight", attention + "dense.weight", "d (n h) -> d n h"),
        Row(_LAYER + "attention.output.bias", attention + "dense.bias", "d -> d"),
        *plain_feed_forward(feed_forward + "dense_h_to_4h", feed_forward + "dense_4h_to_h"),
    )


def megatron_norms(theirs: str) -> tuple[Row, ...]:
    """The rows of the norms before attention and feed-forward."""
    return layer_norms(theirs + "input_layernorm", theirs + "post_attention_layernorm")


EMBEDDING = "transformer.word_embeddings.weight"
ENDS = (
    Row("embedding.weight", EMBEDDING, "v d -> v d"),
    Row("embed_norm.weight", "transformer.word_embeddings_layernorm.weight", "d -> d"),
    Row("embed_norm.bias", "transformer.word_embeddings_layernorm.bias", "d -> d"),
    Row("norm.weight", "transformer.ln_f.weight", "d -> d"),
    Row("norm.bias", "transformer.ln_f.bias", "d -> d"),
    Row("head.weight", "lm_head.weight", "v d -> v d"),
)
LINEAR_MAPS = linear_maps(_THEIRS + "self_attention.", _THEIRS + "mlp.")

TABLE = Table(ENDS + megatron_norms(_THEIRS) + LINEAR_MAPS, {}, EMBEDDING, prefix="transformer.")

# Ways to compute the same, and remains of the training's own options.
_WITHOUT_EFFECT = (
    "attention_softmax_in_fp32 masked_softmax_fusion bias_dropout_fusion skip_bias_add skip_bias_add_qkv offset_alibi"
)


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `BloomConfig`'s keys; defaults are Transformers'."""
    for name in _WITHOUT_EFFECT.split():
        keys.take(name, None)
    keys.neutral("apply_residual_connection_post_layernorm", (False,))
    keys.neutral("n_inner", (None,))
    # With shares to sum, Transformers' slow way leaves the biases out.
    keys.neutral("slow_but_exact", (False,) if keys.size("pretraining_tp", 1) > 1 else (False, True))
    keys.alias("hidden_size", "n_embed")
    sizes = gpt_sizes(keys, 64, 2, 8, ("hidden_size", "n_layer", "n_head"))
    norm, context = layer_norm(keys), keys.size("seq_length", 2048)
    attention = sizes.attention(config.Alibi(bloom_slopes(sizes.heads)), bias=True, output_bias=True)
    feed_forward = config.FeedForward(4 * sizes.dim, "gelu_tanh", gated=False, bias=True)
    block = config.Block(norm, attention, feed_forward)
    return decoder(keys, sizes, [block], norm, context, vocab_size=250880, tied=True, eos=2, embed_norm=norm)
