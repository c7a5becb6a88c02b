"""Command R7B and Command A: Command R with windows in most layers, and no positions in the others."""

from conversion.architectures.cohere import TABLE, layer_norm, scaled
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.sizes import FULL, SLIDING, Sizes, all_but_every, gated, layer_types
from jaxllm import config
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


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `Cohere2Config`'s keys; defaults are Transformers'."""
    for name, value in _FIXED.items():
        keys.neutral(name, (value, None))
    for name in ("model_max_length", "cache_implementation", "use_parallel_embedding"):  # how, not what
        keys.take(name, None)
    every = keys.size("sliding_window_pattern", 4, most=config.MAX_LAYERS)
    for name in ("_sliding_window_pattern", "layer_switch"):  # repeats of it, which Transformers does not read
        keys.neutral(name, (every, None))
    sizes, norm = Sizes.of(keys, dim=8192, layers=40, heads=64), layer_norm(keys)
    length = keys.size("max_position_embeddings", 8192)
    position, context = rotary(keys, length, sizes.head_dim, interleaved=True)
    bias, window = keys.flag("attention_bias", False), keys.size_or_none("sliding_window", 4096)
    if window is None:
        raise InputError("config.json: sliding_window=None is not supported")
    kinds = {
        SLIDING: sizes.attention(position, bias=bias, output_bias=bias, window=window),
        FULL: sizes.attention(None, bias=bias, output_bias=bias),
    }
    hidden, types = gated(keys, 22528), layer_types(keys, sizes.layers, all_but_every(sizes.layers, every))
    blocks = [config.ParallelBlock(norm, kinds[kind], hidden) for kind in types]
    return scaled(keys, sizes, blocks, norm, context)
