"""Qwen 1.5, 2 and 2.5: Llama with biases on queries, keys and values, and optional windows in the upper layers."""

from conversion.architectures.llama import TABLE
from conversion.builders import ConfigReader, Sizes, decoder, gated_feed_forward, rms_norm, rotary, windows_from
from jaxllm.config import BlockConfig, DecoderConfig

__all__ = ["TABLE", "from_hf", "upper_windows"]


def upper_windows(reader: ConfigReader, layers: int) -> list[int | None]:
    """Returns the window of each layer. By default the layers from number `max_window_layers` on have one, if any."""
    size = reader.size_or_none("sliding_window", 4096)
    first = reader.take("max_window_layers", 28, (int,))
    window = None
    if reader.flag("use_sliding_window", False):
        window = size
    return windows_from(reader, layers, window, first)


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `Qwen2Config`; defaults are those of Transformers."""
    reader.neutral("use_mrope", (False, None))
    sizes = Sizes.of(reader, kv_heads=32)
    norm = rms_norm(reader)
    feed_forward = gated_feed_forward(reader, 22016)
    position, context = rotary(reader, reader.size("max_position_embeddings", 32768), sizes.head_dim)
    blocks = [
        BlockConfig(sizes.attention(position, bias=True, window=window), feed_forward, pre_norm=norm)
        for window in upper_windows(reader, sizes.layers)
    ]
    return decoder(reader, sizes, blocks, norm, context, vocab_size=151936, eos=None)
