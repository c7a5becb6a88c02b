"""DeepSeek-V2: multi-head latent attention, and a softmax router with optional expert groups."""

from conversion.architectures.deepseek_v3 import (
    LATENT_ATTENTION,
    SHARED,
    dense_then_mixtures,
    latent_attention,
    latent_sizes,
)
from conversion.architectures.llama import EMBEDDING, EMBEDDING_AND_HEAD, FEED_FORWARD, IGNORED, NORMS
from conversion.architectures.qwen2_moe import EXPERTS
from conversion.builders import ConfigReader, decoder, gated_feed_forward, rms_norm
from conversion.table import WeightTable
from jaxllm.config import BlockConfig, DecoderConfig, RouterConfig

TABLE = WeightTable(
    (*EMBEDDING_AND_HEAD, *NORMS, *LATENT_ATTENTION, *FEED_FORWARD, *EXPERTS, *SHARED), IGNORED, EMBEDDING
)

_GROUPED = {"greedy": False, "group_limited_greedy": True}


def _router(reader: ConfigReader) -> RouterConfig:
    reader.alias("n_routed_experts", "num_experts")
    reader.neutral("scoring_func", ("softmax",))
    reader.neutral("norm_topk_prob", (False, None))  # Transformers does nothing by it
    grouped = reader.choice("topk_method", _GROUPED, "greedy")
    groups, kept = (
        reader.size(name) if grouped else reader.take(name, None) and 1 for name in ("n_group", "topk_group")
    )
    return RouterConfig(
        reader.size("n_routed_experts", 64),
        reader.size("num_experts_per_tok"),
        norm_topk_prob=False,
        routed_scaling_factor=float(reader.number("routed_scaling_factor", 1.0)),
        n_group=groups or 1,
        topk_group=kept or 1,
        topk_within_group=1,
    )


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `DeepseekV2Config`; defaults are those of Transformers."""
    reader.neutral("mlp_bias", (False,))
    reader.neutral("rope_interleave", (True, None))
    sizes = latent_sizes(reader, 4096, 32, 32)
    norm = rms_norm(reader)
    attention, context = latent_attention(reader, sizes.heads, 2048, interleaved=True)
    networks = dense_then_mixtures(
        reader,
        sizes.layers,
        _router(reader),
        gated_feed_forward(reader, 11008),
        moe_intermediate_size=1407,
        n_shared_experts=2,
        first_k_dense_replace=0,
    )
    blocks = [BlockConfig(attention, network, pre_norm=norm) for network in networks]
    return decoder(reader, sizes, blocks, norm, context, vocab_size=102400, eos=2)
