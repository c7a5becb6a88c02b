"""OLMoE: a QK norm over all heads together, and 64 small experts, eight for each token."""

from conversion.architectures.llama import ATTENTION, EMBEDDING, EMBEDDING_AND_HEAD, IGNORED, NORMS
from conversion.architectures.olmo2 import QK_NORMS
from conversion.architectures.qwen2_moe import EXPERTS, router
from conversion.builders import ConfigReader, Sizes, decoder, gated_feed_forward, rms_norm, rotary
from conversion.table import WeightTable
from jaxllm.config import BlockConfig, DecoderConfig, MixtureOfExpertsConfig, QKNormConfig

TABLE = WeightTable(EMBEDDING_AND_HEAD + NORMS + ATTENTION + QK_NORMS + EXPERTS, IGNORED, EMBEDDING)


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `OlmoeConfig`; defaults are those of Transformers."""
    reader.neutral("clip_qkv", (None,))
    sizes = Sizes.of(reader, 2048, 16, 16)
    norm = rms_norm(reader, 1e-5)
    position, context = rotary(reader, reader.size("max_position_embeddings", 4096), sizes.head_dim)
    bias = reader.flag("attention_bias", False)
    qk_norm = QKNormConfig(norm, "all heads")
    attention = sizes.attention(position, bias=bias, output_bias=bias, qk_norm=qk_norm)
    block = BlockConfig(
        attention, MixtureOfExpertsConfig(router(reader, 64, 8), gated_feed_forward(reader, 2048)), pre_norm=norm
    )
    return decoder(reader, sizes, [block], norm, context, vocab_size=50304, eos=50279)
