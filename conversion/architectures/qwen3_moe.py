"""Qwen3 (mixture of experts): QK norm, and many small experts in all or some layers."""

from conversion.architectures.llama import ATTENTION, EMBEDDING, EMBEDDING_AND_HEAD, FEED_FORWARD, IGNORED, NORMS
from conversion.architectures.qwen2_moe import EXPERTS, expert, router, sparse_layers
from conversion.architectures.qwen3 import QK_NORMS
from conversion.builders import ConfigReader, Sizes, decoder, gated_feed_forward, rms_norm, rotary
from conversion.table import WeightTable
from jaxllm.config import BlockConfig, DecoderConfig, MixtureOfExpertsConfig, QKNormConfig

TABLE = WeightTable(EMBEDDING_AND_HEAD + NORMS + ATTENTION + QK_NORMS + FEED_FORWARD + EXPERTS, IGNORED, EMBEDDING)


def _window(reader: ConfigReader) -> int | None:
    """Returns the window of all layers; None unless `use_sliding_window` is true."""
    size = reader.size_or_none("sliding_window", 4096)
    if not reader.flag("use_sliding_window", False) or size is None:
        reader.take("max_window_layers", None)
        return None
    reader.neutral("max_window_layers", (0, None))  # the authors' windows begin at this layer, Transformers' do not
    return size


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `Qwen3MoeConfig`; defaults are those of Transformers."""
    # Qwen3-Coder says these of what is no choice here.
    for name, value in {"qkv_bias": False, "use_qk_norm": True, "shared_expert_intermediate_size": 0}.items():
        reader.neutral(name, (value, None))
    sizes = Sizes.of(reader, 2048, 24, 32, kv_heads=4)
    norm = rms_norm(reader)
    position, context = rotary(reader, reader.size("max_position_embeddings", 32768), sizes.head_dim)
    bias = reader.flag("attention_bias", False)
    attention = sizes.attention(
        position, bias=bias, output_bias=bias, window=_window(reader), qk_norm=QKNormConfig(norm)
    )
    dense = gated_feed_forward(reader, 6144)
    mixture = MixtureOfExpertsConfig(router(reader, 128, 8), expert(reader, dense, 768))
    blocks = [
        BlockConfig(attention, mixture if sparse else dense, pre_norm=norm)
        for sparse in sparse_layers(reader, sizes.layers)
    ]
    return decoder(reader, sizes, blocks, norm, context, vocab_size=151936, eos=None)
