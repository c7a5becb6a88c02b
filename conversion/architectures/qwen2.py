"""Qwen 1.5, 2 and 2.5: a Llama whose queries, keys and values have biases, and whose upper layers may slide."""

from conversion.architectures.llama import TABLE
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.sizes import FULL, SLIDING, Sizes, decoder, gated, rms_norm, windows
from jaxllm import config

__all__ = ["TABLE", "from_hf", "upper_windows"]


def upper_windows(keys: Keys, layers: int) -> list[int | None]:
    """The window of each layer: if used at all, that of the layers from number `max_window_layers` on."""
    size, first = keys.size_or_none("sliding_window", 4096), keys.take("max_window_layers", 28, (int,))
    window = size if keys.flag("use_sliding_window", False) else None
    return windows(keys, layers, window, [SLIDING if window and i >= first else FULL for i in range(layers)])


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `Qwen2Config`'s keys; defaults are Transformers'."""
    keys.neutral("use_mrope", (False, None))
    sizes, norm, feed_forward = Sizes.of(keys, kv_heads=32), rms_norm(keys), gated(keys, 22016)
    position, context = rotary(keys, keys.size("max_position_embeddings", 32768), sizes.head_dim)
    blocks = [
        config.Block(norm, sizes.attention(position, bias=True, window=window), feed_forward)
        for window in upper_windows(keys, sizes.layers)
    ]
    return decoder(keys, sizes, blocks, norm, context, vocab_size=151936, eos=None)
