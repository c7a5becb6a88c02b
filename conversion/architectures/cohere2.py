"""Command R7B and Command A: Command R with sliding windows in most layers and no positions in the others."""

from conversion.architectures.cohere import TABLE, layer_norm, scaled
from conversion.builders import (
    FULL,
    SLIDING,
    ConfigReader,
    Sizes,
    full_attention_every,
    gated_feed_forward,
    layer_types,
    rotary,
)
from jaxllm.config import MAX_LAYERS, DecoderConfig, ParallelBlockConfig
from jaxllm.errors import InputError

__all__ = ["TABLE", "from_hf"]

# What the authors' own code can be told, and Transformers' cannot.
_FIXED = {
    "order_of_interleaved_layers": "local_attn_first",
    "position_embedding_type": "rope_gptj",
    "rotary_pct": 1,
    "use_embedding_sharing": True,
    "use_gated_activation": True,
    "use_parallel_block": True,
    "use_qk_norm": False,
}


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `Cohere2Config`; defaults are those of Transformers."""
    for name, value in _FIXED.items():
        reader.neutral(name, (value, None))
    for name in ("model_max_length", "cache_implementation", "use_parallel_embedding"):  # how, not what
        reader.take(name, None)
    every = reader.size("sliding_window_pattern", 4, most=MAX_LAYERS)
    for name in ("_sliding_window_pattern", "layer_switch"):  # repeats of it, which Transformers does not read
        reader.neutral(name, (every, None))
    sizes = Sizes.of(reader, dim=8192, layers=40, heads=64)
    norm = layer_norm(reader)
    length = reader.size("max_position_embeddings", 8192)
    position, context = rotary(reader, length, sizes.head_dim, interleaved=True)
    bias = reader.flag("attention_bias", False)
    window = reader.size_or_none("sliding_window", 4096)
    if window is None:
        raise InputError("config.json: sliding_window=None is not supported")
    kinds = {
        SLIDING: sizes.attention(position, bias=bias, output_bias=bias, window=window),
        FULL: sizes.attention(None, bias=bias, output_bias=bias),
    }
    hidden = gated_feed_forward(reader, 22528)
    types = layer_types(reader, sizes.layers, full_attention_every(sizes.layers, every))
    blocks = [ParallelBlockConfig(kinds[kind], hidden, pre_norm=norm) for kind in types]
    return scaled(reader, sizes, blocks, norm, context)
