"""OLMo 2: a Llama whose norms stand behind attention and feed-forward, and over all heads' queries and keys."""

from conversion.architectures.llama import ATTENTION, EMBEDDING, ENDS, FEED_FORWARD, IGNORED
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.sizes import Sizes, decoder, gated, rms_norm
from conversion.table import Row, Table
from jaxllm import config

_LAYER, _THEIRS = "layers.{i}.", "model.layers.{i}."

NORMS_BEHIND = (
    Row(_LAYER + "attention_norm.weight", _THEIRS + "post_attention_layernorm.weight", "d -> d"),
    Row(_LAYER + "feed_forward_norm.weight", _THEIRS + "post_feedforward_layernorm.weight", "d -> d"),
)
HEAD_NORMS = (
    Row(_LAYER + "attention.query_norm.weight", _THEIRS + "self_attn.q_norm.weight", "(n h) -> n h"),
    Row(_LAYER + "attention.key_norm.weight", _THEIRS + "self_attn.k_norm.weight", "(n h) -> n h"),
)

TABLE = Table(ENDS + NORMS_BEHIND + ATTENTION + HEAD_NORMS + FEED_FORWARD, IGNORED, EMBEDDING)


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `Olmo2Config`'s keys; defaults are Transformers'."""
    sizes, norm = Sizes.of(keys), rms_norm(keys, 1e-5)
    position, context = rotary(keys, keys.size("max_position_embeddings", 2048), sizes.head_dim)
    bias, head_norm = keys.flag("attention_bias", False), config.HeadNorm(norm, "all heads")
    attention = sizes.attention(position, bias=bias, output_bias=bias, head_norm=head_norm)
    block = config.Block(norm, attention, gated(keys, 11008), "output")
    return decoder(keys, sizes, [block], norm, context, vocab_size=50304, eos=50279)
