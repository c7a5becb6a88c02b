"""Qwen3: a Qwen2 that normalises each head's queries and keys, its biases gone by default."""

from conversion.architectures.llama import ATTENTION, EMBEDDING, ENDS, FEED_FORWARD, IGNORED, NORMS
from conversion.architectures.qwen2 import upper_windows
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.sizes import Sizes, decoder, gated, rms_norm
from conversion.table import Row, Table
from jaxllm import config

_LAYER, _THEIRS = "layers.{i}.attention.", "model.layers.{i}.self_attn."

HEAD_NORMS = (
    Row(_LAYER + "query_norm.weight", _THEIRS + "q_norm.weight", "h -> h"),
    Row(_LAYER + "key_norm.weight", _THEIRS + "k_norm.weight", "h -> h"),
)

TABLE = Table(ENDS + NORMS + ATTENTION + HEAD_NORMS + FEED_FORWARD, IGNORED, EMBEDDING)


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `Qwen3Config`'s keys; defaults are Transformers'."""
    sizes, norm, feed_forward = Sizes.of(keys, kv_heads=32, head_dim=128), rms_norm(keys), gated(keys, 22016)
    position, context = rotary(keys, keys.size("max_position_embeddings", 32768), sizes.head_dim)
    bias, head_norm = keys.flag("attention_bias", False), config.HeadNorm(norm)
    blocks = [
        config.Block(
            norm,
            sizes.attention(position, bias=bias, output_bias=bias, window=window, head_norm=head_norm),
            feed_forward,
        )
        for window in upper_windows(keys, sizes.layers)
    ]
    return decoder(keys, sizes, blocks, norm, context, vocab_size=151936, eos=None)
