"""SmolLM3: Llama with grouped-query attention and no positions in every fourth layer."""

from conversion.architectures.llama import TABLE
from conversion.builders import (
    FULL,
    SLIDING,
    ConfigReader,
    Sizes,
    decoder,
    gated_feed_forward,
    rms_norm,
    rotary,
    windows,
)
from jaxllm.config import BlockConfig, DecoderConfig
from jaxllm.errors import InputError

__all__ = ["CLASS", "TABLE", "from_hf"]

CLASS = "SmolLM3ForCausalLM"


def _has_rotary(reader: ConfigReader, layers: int) -> list[bool]:
    """Tells for each layer whether it has rotary embeddings: those that `no_rope_layers` marks with 1.

    By default every `no_rope_layer_interval`-th layer has none.
    """
    every = reader.size("no_rope_layer_interval", 4)
    marks = reader.take("no_rope_layers", None, (list, type(None)))
    if marks is None:
        return [(i + 1) % every != 0 for i in range(layers)]
    if len(marks) < layers or any(mark not in (0, 1) for mark in marks):
        raise InputError(f"config.json: no_rope_layers must be 0 or 1 for each of {layers} layers")
    return [bool(mark) for mark in marks[:layers]]


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `SmolLM3Config`; defaults are those of Transformers."""
    reader.take("max_window_layers", None)  # Qwen's, without effect
    sizes = Sizes.of(reader, 2048, 36, 16, kv_heads=4)
    norm = rms_norm(reader)
    length = reader.size("max_position_embeddings", 32768)
    position, context = rotary(reader, length, sizes.head_dim, theta=2_000_000.0)
    feed_forward = gated_feed_forward(reader, 11008, bias=reader.flag("mlp_bias", False))
    size = reader.size_or_none("sliding_window", None)
    bias = reader.flag("attention_bias", False)
    window = None
    if reader.flag("use_sliding_window", False):
        window = size
    has_rotary = _has_rotary(reader, sizes.layers)
    kinds = [SLIDING if window and not turns else FULL for turns in has_rotary]
    blocks = [
        BlockConfig(
            sizes.attention(position if turns else None, bias=bias, output_bias=bias, window=each),
            feed_forward,
            pre_norm=norm,
        )
        for turns, each in zip(has_rotary, windows(reader, sizes.layers, window, kinds), strict=True)
    ]
    return decoder(reader, sizes, blocks, norm, context, vocab_size=128256, tied=True, eos=128001)
