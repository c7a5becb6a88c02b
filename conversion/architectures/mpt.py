"""MPT: ALiBi, no biases, and a fused projection of all queries, then keys, then values."""

from conversion.architectures.gpt2 import QKV_WEIGHT, gpt_sizes, layer_norm
from conversion.builders import ConfigReader, Sizes, decoder, mpt_slopes
from conversion.table import TableRow, WeightTable
from jaxllm.config import ALiBiConfig, AttentionConfig, BlockConfig, DecoderConfig, FeedForwardConfig, LayerNormConfig

_LAYER = "layers.{i}."
_THEIRS = "transformer.blocks.{i}."

TABLE = WeightTable(
    rows=(
        TableRow("embedding.weight", "transformer.wte.weight", "v d -> v d"),
        TableRow("norm.weight", "transformer.norm_f.weight", "d -> d"),
        TableRow("head.weight", "lm_head.weight", "v d -> v d"),
        TableRow(_LAYER + "attention_norm.weight", _THEIRS + "norm_1.weight", "d -> d"),
        TableRow(QKV_WEIGHT, _THEIRS + "attn.Wqkv.weight", "(p n h) d -> (p n) h d", split_axis="p"),
        TableRow(_LAYER + "attention.output.weight", _THEIRS + "attn.out_proj.weight", "d (n h) -> d n h"),
        TableRow(_LAYER + "feed_forward_norm.weight", _THEIRS + "norm_2.weight", "d -> d"),
        TableRow(_LAYER + "feed_forward.up.weight", _THEIRS + "ffn.up_proj.weight", "f d -> f d"),
        TableRow(_LAYER + "feed_forward.down.weight", _THEIRS + "ffn.down_proj.weight", "d f -> d f"),
    ),
    ignored={},
    embedding="transformer.wte.weight",
)

_LAYER_NORMS = ("low_precision_layernorm", "layernorm", "low_precision_LayerNorm", "LayerNorm")
_WITHOUT_EFFECT = (  # the training's; ALiBi leaves no room for the learned positions
    "learned_pos_emb embedding_fraction init_config init_device verbose tokenizer_name emb_pdrop fc_type "
    "use_pad_tok_in_ffn"
)


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `MptConfig`; defaults are those of Transformers.

    What its authors' code heeds and Transformers does not is refused where it has an effect.
    """
    for name in _WITHOUT_EFFECT.split():
        reader.take(name, None)
    for name, values in (("no_bias", (True,)), ("expansion_ratio", (4,)), ("logit_scale", (None, 1))):
        reader.neutral(name, values)
    reader.neutral("norm_type", _LAYER_NORMS)
    sizes = gpt_sizes(reader, 2048, 24, 16, ("d_model", "n_layers", "n_heads"))
    norm = LayerNormConfig(layer_norm(reader).eps, bias=False)
    inner = ConfigReader(reader.take("attn_config", None, (dict, type(None))) or {}, "config.json: attn_config")
    block = BlockConfig(_attention(inner, sizes), FeedForwardConfig(4 * sizes.dim, "gelu", gated=False), pre_norm=norm)
    context = reader.size("max_seq_len", 2048)
    return decoder(reader, sizes, [block], norm, context, vocab_size=50368, tied=True, eos=None)


def _attention(reader: ConfigReader, sizes: Sizes) -> AttentionConfig:
    """Builds attention from the keys of `attn_config`."""
    for name in ("attn_impl", "attn_uses_sequence_id", "eos_token_id", "tie_word_embeddings"):
        reader.take(name, None)  # the second is for rows of several texts
    for name, value in (("alibi", True), ("alibi_bias_max", 8), ("attn_type", "multihead_attention")):
        reader.neutral(name, (value,))
    for name in ("prefix_lm", "qk_ln", "qk_gn", "rope"):
        reader.neutral(name, (False,))
    scale = reader.number("softmax_scale", sizes.head_dim**-0.5)
    clip = reader.number_or_none("clip_qkv")
    reader.finish()
    return sizes.attention(ALiBiConfig(mpt_slopes(sizes.heads)), scale=float(scale), clip=clip and float(clip))
