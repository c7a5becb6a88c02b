"""OLMo 3: OLMo 2 with windows in three of four layers. Rotary scaling applies only to layers without a window."""

from conversion.architectures.olmo2 import TABLE
from conversion.builders import (
    FULL,
    SLIDING,
    ConfigReader,
    Sizes,
    decoder,
    gated_feed_forward,
    rms_norm,
    rotary_by_layer_type,
    windows,
)
from jaxllm.config import BlockConfig, DecoderConfig, QKNormConfig

__all__ = ["TABLE", "from_hf"]

_THETA = 500_000.0


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `Olmo3Config`; defaults are those of Transformers."""
    reader.neutral("rope_theta", (_THETA, None))  # its versions differ in whether another is for both kinds of layer
    sizes = Sizes.of(reader)
    norm = rms_norm(reader, 1e-5)
    feed_forward = gated_feed_forward(reader, 11008)
    context = reader.size("max_position_embeddings", 2048)
    positions, context = rotary_by_layer_type(reader, context, sizes.head_dim, {FULL: _THETA, SLIDING: _THETA})
    bias = reader.flag("attention_bias", False)
    qk_norm = QKNormConfig(norm, "all heads")
    attention = [
        sizes.attention(
            positions[SLIDING if window else FULL], bias=bias, output_bias=bias, window=window, qk_norm=qk_norm
        )
        for window in windows(
            reader, sizes.layers, reader.size_or_none("sliding_window", 4096), (SLIDING, SLIDING, SLIDING, FULL)
        )
    ]
    blocks = [BlockConfig(each, feed_forward, output_norm=norm) for each in attention]
    return decoder(reader, sizes, blocks, norm, context, vocab_size=50304, eos=50279)
