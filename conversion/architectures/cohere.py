"""Command R: parallel blocks under one norm without a bias, neighbouring dimensions turned, scaled logits."""

from conversion.architectures.llama import ATTENTION, EMBEDDING, ENDS, FEED_FORWARD, IGNORED, NORMS
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.sizes import Sizes, decoder, gated
from conversion.table import Row, Table
from jaxllm import config

_LAYER, _THEIRS = "layers.{i}.", "model.layers.{i}."

TABLE = Table(
    (
        *ENDS,
        *NORMS,
        *ATTENTION,
        Row(_LAYER + "attention.query_norm.weight", _THEIRS + "self_attn.q_norm.weight", "n h -> n h"),
        Row(_LAYER + "attention.key_norm.weight", _THEIRS + "self_attn.k_norm.weight", "n h -> n h"),
        *FEED_FORWARD,
    ),
    IGNORED,
    EMBEDDING,
)


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `CohereConfig`'s keys; defaults are Transformers'."""
    keys.take("model_max_length", None)  # of the tokenizer
    sizes, norm = Sizes.of(keys, dim=8192, layers=40, heads=64), layer_norm(keys)
    length = keys.size("max_position_embeddings", 8192)
    position, context = rotary(keys, length, sizes.head_dim, theta=500_000.0, interleaved=True)
    bias, normal = keys.flag("attention_bias", False), keys.flag("use_qk_norm", False)
    head_norm = config.HeadNorm(norm, "each head") if normal else None
    attention = sizes.attention(position, bias=bias, output_bias=bias, head_norm=head_norm)
    return scaled(keys, sizes, [config.ParallelBlock(norm, attention, gated(keys, 22528))], norm, context)


def layer_norm(keys: Keys) -> config.LayerNorm:
    """The norm without a bias."""
    return config.LayerNorm(float(keys.number("layer_norm_eps", 1e-5)), bias=False)


def scaled(
    keys: Keys, sizes: Sizes, blocks: list[config.ParallelBlock], norm: config.Norm, context: int
) -> config.Decoder:
    """The whole model, its logits scaled."""
    scale = float(keys.number("logit_scale", 0.0625))
    return decoder(keys, sizes, blocks, norm, context, vocab_size=256000, tied=True, eos=255001, logit_scale=scale)
