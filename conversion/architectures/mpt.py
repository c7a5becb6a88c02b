"""MPT: ALiBi in place of positions, no biases, and queries, keys and values fused one after the other."""

from conversion.alibi import mpt_slopes
from conversion.architectures.gpt2 import QKV_WEIGHT, gpt_sizes, layer_norm
from conversion.keys import Keys
from conversion.sizes import Sizes, decoder
from conversion.table import Row, Table
from jaxllm import config

_LAYER, _THEIRS = "layers.{i}.", "transformer.blocks.{i}."

TABLE = Table(
    rows=(
        Row("embedding.weight", "transformer.wte.weight", "v d -> v d"),
        Row("norm.weight", "transformer.norm_f.weight", "d -> d"),
        Row("head.weight", "lm_head.weight", "v d -> v d"),
        Row(_LAYER + "attention_norm.weight", _THEIRS + "norm_1.weight", "d -> d"),
        Row(QKV_WEIGHT, _THEIRS + "attn.Wqkv.weight", "(p n h) d -> (p n) h d", along="p"),
        Row(_LAYER + "attention.output.weight", _THEIRS + "attn.out_proj.weight", "d (n h) -> d n h"),
        Row(_LAYER + "feed_forward_norm.weight", _THEIRS + "norm_2.weight", "d -> d"),
        Row(_LAYER + "feed_forward.up.weight", _THEIRS + "ffn.up_proj.weight", "f d -> f d"),
        Row(_LAYER + "feed_forward.down.weight", _THEIRS + "ffn.down_proj.weight", "d f -> d f"),
    ),
    ignored={},
    embedding="transformer.wte.weight",
)

_LAYER_NORMS = ("low_precision_layernorm", "layernorm", "low_precision_LayerNorm", "LayerNorm")
_WITHOUT_EFFECT = (  # the training's; ALiBi leaves no room for the learned positions
    "learned_pos_emb embedding_fraction init_config init_device verbose tokenizer_name emb_pdrop fc_type "
    "use_pad_tok_in_ffn"
)


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `MptConfig`'s keys; defaults are Transformers'.

    What its authors' code heeds and Transformers does not is refused where it has an effect.
    """
    for name in _WITHOUT_EFFECT.split():
        keys.take(name, None)
    for name, values in (("no_bias", (True,)), ("expansion_ratio", (4,)), ("logit_scale", (None, 1))):
        keys.neutral(name, values)
    keys.neutral("norm_type", _LAYER_NORMS)
    sizes = gpt_sizes(keys, 2048, 24, 16, ("d_model", "n_layers", "n_heads"))
    norm = config.LayerNorm(layer_norm(keys).eps, bias=False)
    inner = Keys(keys.take("attn_config", None, (dict, type(None))) or {}, "config.json: attn_config")
    block = config.Block(norm, _attention(inner, sizes), config.FeedForward(4 * sizes.dim, "gelu", gated=False))
    context = keys.size("max_seq_len", 2048)
    return decoder(keys, sizes, [block], norm, context, vocab_size=50368, tied=True, eos=None)


def _attention(keys: Keys, sizes: Sizes) -> config.Attention:
    """Attention from the keys of the inner object."""
    for name in ("attn_impl", "attn_uses_sequence_id", "eos_token_id", "tie_word_embeddings"):
        keys.take(name, None)  # the second is for rows of several texts
    for name, value in (("alibi", True), ("alibi_bias_max", 8), ("attn_type", "multihead_attention")):
        keys.neutral(name, (value,))
    for name in ("prefix_lm", "qk_ln", "qk_gn", "rope"):
        keys.neutral(name, (False,))
    scale = keys.number("softmax_scale", sizes.head_dim**-0.5)
    clip = keys.number_or_none("clip_qkv")
    keys.finish()
    return sizes.attention(config.Alibi(mpt_slopes(sizes.heads)), scale=float(scale), clip=clip and float(clip))
