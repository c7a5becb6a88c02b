"""GLM 4.5: partial rotary embeddings, optional QK norm, and the experts of DeepSeek-V3."""

from conversion.architectures.deepseek_v3 import CORRECTION, FURTHER, SHARED, dense_then_mixtures, sigmoid_router
from conversion.architectures.llama import ATTENTION, EMBEDDING, EMBEDDING_AND_HEAD, FEED_FORWARD, IGNORED, NORMS
from conversion.architectures.qwen2_moe import EXPERTS
from conversion.architectures.qwen3 import HEAD_NORMS
from conversion.builders import ConfigReader, Sizes, decoder, gated_feed_forward, rms_norm, rotary
from conversion.table import WeightTable
from jaxllm.config import BlockConfig, DecoderConfig, QKNormConfig

TABLE = WeightTable(
    (*EMBEDDING_AND_HEAD, *NORMS, *ATTENTION, *HEAD_NORMS, *FEED_FORWARD, *EXPERTS, *SHARED, CORRECTION),
    IGNORED,
    EMBEDDING,
    multi_token_prediction=FURTHER,
)


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `Glm4MoeConfig`; defaults are those of Transformers."""
    sizes = Sizes.of(reader, 4096, 46, 96, kv_heads=8)
    norm = rms_norm(reader, 1e-5)
    position, context = rotary(reader, reader.size("max_position_embeddings", 131072), sizes.head_dim, fraction=0.5)
    qk_norm = None
    if reader.flag("use_qk_norm", False):
        qk_norm = QKNormConfig(norm)
    attention = sizes.attention(position, bias=reader.flag("attention_bias", False), qk_norm=qk_norm)
    router = sigmoid_router(reader, 128, 8, groups=1, kept=1)
    parts = dense_then_mixtures(
        reader, sizes.layers, router, gated_feed_forward(reader, 10944), hidden=1408, shared=1, first=1
    )
    blocks = [BlockConfig(attention, part, pre_norm=norm) for part in parts]
    return decoder(reader, sizes, blocks, norm, context, vocab_size=151552, eos=None)
