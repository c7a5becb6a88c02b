"""Gemma 3 (text): QK norm, five layers with a window for each one without, and a rotary base for each kind."""

from conversion.architectures.gemma import causal_only
from conversion.architectures.gemma2 import SANDWICH_NORMS, attention_fields, feed_forward_network
from conversion.architectures.llama import ATTENTION, EMBEDDING, EMBEDDING_AND_HEAD, FEED_FORWARD, IGNORED
from conversion.architectures.qwen3 import QK_NORMS
from conversion.builders import (
    FULL,
    SLIDING,
    ConfigReader,
    Sizes,
    decoder,
    full_attention_every,
    rms_norm,
    rotary_by_layer_type,
    windows,
)
from conversion.table import WeightTable
from jaxllm.config import BlockConfig, DecoderConfig, QKNormConfig

CLASS = "Gemma3ForCausalLM"
TABLE = WeightTable(EMBEDDING_AND_HEAD + SANDWICH_NORMS + ATTENTION + QK_NORMS + FEED_FORWARD, IGNORED, EMBEDDING)


def _windows(reader: ConfigReader, layers: int) -> list[int | None]:
    """Returns the window of each layer. The older key `sliding_window_pattern` says which layers have none."""
    every = reader.size("sliding_window_pattern", 6)
    reader.neutral("_sliding_window_pattern", (None, every))
    default = full_attention_every(layers, every)
    return windows(reader, layers, reader.size_or_none("sliding_window", 4096), default)


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `Gemma3TextConfig`; defaults are those of Transformers."""
    causal_only(reader)
    reader.neutral("attn_logit_softcapping", (None,))  # Transformers reads it, and does nothing
    sizes = Sizes.of(reader, 2304, 26, 8, kv_heads=4, head_dim=256)
    norm = rms_norm(reader, offset=1.0)
    bases = {FULL: reader.number("rope_theta", 1e6), SLIDING: reader.number("rope_local_base_freq", 1e4)}
    context = reader.size("max_position_embeddings", 131072)  # with what scaling adds to it
    positions, _ = rotary_by_layer_type(reader, context, sizes.head_dim, bases)
    fields = attention_fields(reader) | {"qk_norm": QKNormConfig(norm)}
    hidden = feed_forward_network(reader)
    blocks = [
        BlockConfig(
            sizes.attention(positions[SLIDING if window else FULL], window=window, **fields),
            hidden,
            pre_norm=norm,
            output_norm=norm,
        )
        for window in _windows(reader, sizes.layers)
    ]
    return decoder(
        reader,
        sizes,
        blocks,
        norm,
        context,
        vocab_size=262208,
        tied=True,
        eos=1,
        embed_scale=sizes.dim**0.5,
        logit_softcap=reader.number_or_none("final_logit_softcapping"),
    )
