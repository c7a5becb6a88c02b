"""EXAONE 4: norms behind attention and feed-forward, normalised heads, positions in layers with a window alone."""

from conversion.architectures.llama import ATTENTION, EMBEDDING, ENDS, FEED_FORWARD, IGNORED
from conversion.architectures.olmo2 import NORMS_BEHIND
from conversion.architectures.qwen3 import HEAD_NORMS
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.sizes import FULL, Sizes, all_but_every, decoder, gated, rms_norm, windows
from conversion.table import Table
from jaxllm import config

TABLE = Table(ENDS + NORMS_BEHIND + ATTENTION + HEAD_NORMS + FEED_FORWARD, IGNORED, EMBEDDING)


def _windows(keys: Keys, layers: int, window: int | None) -> list[int | None]:
    """The window of each layer: all but every so many-th have it. A pattern in words needs its `layer_types`."""
    every = keys.take("sliding_window_pattern", 4, (int, str, type(None)))
    kinds = [str(every) if window else FULL]
    if window and isinstance(every, int) and every > 0:
        kinds = all_but_every(layers, every)
    return windows(keys, layers, window, kinds)


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `Exaone4Config`'s keys; defaults are Transformers'."""
    sizes, norm, feed_forward = Sizes.of(keys, kv_heads=32), rms_norm(keys, 1e-5), gated(keys, 16384)
    position, context = rotary(keys, keys.size("max_position_embeddings", 2048), sizes.head_dim)
    window, head_norm = keys.size_or_none("sliding_window", 4096), config.HeadNorm(norm)
    attention = [
        sizes.attention(position if each or not window else None, window=each, head_norm=head_norm)
        for each in _windows(keys, sizes.layers, window)
    ]
    blocks = [config.Block(norm, each, feed_forward, "output") for each in attention]
    return decoder(keys, sizes, blocks, norm, context, vocab_size=102400, eos=2)
