"""EXAONE 4: norms on the outputs of branches, QK norm, and rotary embeddings only in layers with a window."""

from conversion.architectures.llama import ATTENTION, EMBEDDING, EMBEDDING_AND_HEAD, FEED_FORWARD, IGNORED
from conversion.architectures.olmo2 import OUTPUT_NORMS
from conversion.architectures.qwen3 import QK_NORMS
from conversion.builders import (
    FULL,
    ConfigReader,
    Sizes,
    decoder,
    full_attention_every,
    gated_feed_forward,
    rms_norm,
    rotary,
    windows,
)
from conversion.table import WeightTable
from jaxllm.config import BlockConfig, DecoderConfig, QKNormConfig

TABLE = WeightTable(EMBEDDING_AND_HEAD + OUTPUT_NORMS + ATTENTION + QK_NORMS + FEED_FORWARD, IGNORED, EMBEDDING)


def _windows(reader: ConfigReader, layers: int, window: int | None) -> list[int | None]:
    """Returns the window of each layer: all but every `sliding_window_pattern`-th have it.

    A pattern that is a text says nothing; such a config needs `layer_types`.
    """
    every = reader.take("sliding_window_pattern", 4, (int, str, type(None)))
    kinds = [str(every) if window else FULL]
    if window and isinstance(every, int) and every > 0:
        kinds = full_attention_every(layers, every)
    return windows(reader, layers, window, kinds)


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `Exaone4Config`; defaults are those of Transformers."""
    sizes = Sizes.of(reader, kv_heads=32)
    norm = rms_norm(reader, 1e-5)
    feed_forward = gated_feed_forward(reader, 16384)
    position, context = rotary(reader, reader.size("max_position_embeddings", 2048), sizes.head_dim)
    window = reader.size_or_none("sliding_window", 4096)
    qk_norm = QKNormConfig(norm)
    attention = [
        sizes.attention(position if each or not window else None, window=each, qk_norm=qk_norm)
        for each in _windows(reader, sizes.layers, window)
    ]
    blocks = [BlockConfig(each, feed_forward, output_norm=norm) for each in attention]
    return decoder(reader, sizes, blocks, norm, context, vocab_size=102400, eos=2)
