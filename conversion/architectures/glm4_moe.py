"""GLM 4.5: partial rotary embeddings, optional QK norm, and the experts of DeepSeek-V3."""

from conversion.architectures.deepseek_v3 import (
    CORRECTION,
    MULTI_TOKEN_PREDICTION,
    SHARED,
    dense_then_mixtures,
    sigmoid_router,
)
from conversion.architectures.llama import ATTENTION, EMBEDDING, EMBEDDING_AND_HEAD, FEED_FORWARD, IGNORED, NORMS
from conversion.architectures.qwen2_moe import EXPERTS
from conversion.architectures.qwen3 import QK_NORMS
from conversion.builders import ConfigReader, Sizes, decoder, gated_feed_forward, rms_norm, rotary
from conversion.table import WeightTable
from jaxllm.config import BlockConfig, DecoderConfig, QKNormConfig

TABLE = WeightTable(
    (*EMBEDDING_AND_HEAD, *NORMS, *ATTENTION, *QK_NORMS, *FEED_FORWARD, *EXPERTS, *SHARED, CORRECTION),
    IGNORED,
    EMBEDDING,
    multi_token_prediction=MULTI_TOKEN_PREDICTION,
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
    router = sigmoid_router(reader, 128, 8, n_group=1, topk_group=1)
    networks = dense_then_mixtures(
        reader,
        sizes.layers,
        router,
        gated_feed_forward(reader, 10944),
        moe_intermediate_size=1408,
        n_shared_experts=1,
        first_k_dense_replace=1,
    )
    blocks = [BlockConfig(attention, network, pre_norm=norm) for network in networks]
    return decoder(reader, sizes, blocks, norm, context, vocab_size=151552, eos=None)
