"""dots.llm1: QK norm, optional sliding windows in the upper layers, and the experts of DeepSeek-V3."""

from conversion.architectures.deepseek_v3 import CORRECTION, SHARED, dense_then_mixtures, sigmoid_router
from conversion.architectures.llama import ATTENTION, EMBEDDING, EMBEDDING_AND_HEAD, FEED_FORWARD, IGNORED, NORMS
from conversion.architectures.qwen2_moe import EXPERTS
from conversion.architectures.qwen3 import QK_NORMS
from conversion.builders import ConfigReader, Sizes, decoder, gated_feed_forward, rms_norm, rotary, windows_from
from conversion.table import WeightTable
from jaxllm.config import BlockConfig, DecoderConfig, QKNormConfig

TABLE = WeightTable(
    (*EMBEDDING_AND_HEAD, *NORMS, *ATTENTION, *QK_NORMS, *FEED_FORWARD, *EXPERTS, *SHARED, CORRECTION),
    IGNORED,
    EMBEDDING,
)


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `Dots1Config`; defaults are those of Transformers."""
    reader.neutral("use_sliding_window", (False, None))
    sizes = Sizes.of(reader, 4608, 62, 32)
    norm = rms_norm(reader)
    position, context = rotary(reader, reader.size("max_position_embeddings", 2048), sizes.head_dim)
    bias = reader.flag("attention_bias", False)
    first = reader.take("max_window_layers", 62, (int,))
    fields = {"bias": bias, "output_bias": bias, "qk_norm": QKNormConfig(norm)}
    window = reader.size_or_none("sliding_window", 4096)
    router = sigmoid_router(reader, None, None, n_group=1, topk_group=1, norm_topk_prob=False)
    networks = dense_then_mixtures(
        reader,
        sizes.layers,
        router,
        gated_feed_forward(reader, 10944),
        moe_intermediate_size=1408,
        n_shared_experts=None,
        first_k_dense_replace=0,
    )
    blocks = [
        BlockConfig(sizes.attention(position, window=window, **fields), network, pre_norm=norm)
        for window, network in zip(windows_from(reader, sizes.layers, window, first), networks, strict=True)
    ]
    return decoder(reader, sizes, blocks, norm, context, vocab_size=152064, eos=None)
