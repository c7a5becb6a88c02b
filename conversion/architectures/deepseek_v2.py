"""DeepSeek-V2: latent attention, and experts chosen by softmax scores, from everywhere or within the best groups."""

from conversion.architectures.deepseek_v3 import (
    LATENT_ATTENTION,
    SHARED,
    dense_then_mixtures,
    latent_attention,
    latent_sizes,
)
from conversion.architectures.llama import EMBEDDING, ENDS, FEED_FORWARD, IGNORED, NORMS
from conversion.architectures.qwen2_moe import EXPERTS
from conversion.keys import Keys
from conversion.sizes import decoder, gated, rms_norm
from conversion.table import Table
from jaxllm import config

TABLE = Table((*ENDS, *NORMS, *LATENT_ATTENTION, *FEED_FORWARD, *EXPERTS, *SHARED), IGNORED, EMBEDDING)

_GROUPED = {"greedy": False, "group_limited_greedy": True}


def _router(keys: Keys) -> config.Router:
    keys.alias("n_routed_experts", "num_experts")
    keys.neutral("scoring_func", ("softmax",))
    keys.neutral("norm_topk_prob", (False, None))  # Transformers does nothing by it
    grouped = keys.choice("topk_method", _GROUPED, "greedy")
    groups, kept = (keys.size(name) if grouped else keys.take(name, None) and 1 for name in ("n_group", "topk_group"))
    return config.Router(
        keys.size("n_routed_experts", 64),
        keys.size("num_experts_per_tok"),
        normalize=False,
        scale=float(keys.number("routed_scaling_factor", 1.0)),
        groups=groups or 1,
        kept_groups=kept or 1,
        group_best=1,
    )


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `DeepseekV2Config`'s keys; defaults are Transformers'."""
    keys.neutral("mlp_bias", (False,))
    keys.neutral("rope_interleave", (True, None))
    sizes, norm = latent_sizes(keys, 4096, 32, 32), rms_norm(keys)
    attention, context = latent_attention(keys, sizes.heads, 2048, interleaved=True)
    parts = dense_then_mixtures(keys, sizes.layers, _router(keys), gated(keys, 11008), hidden=1407, shared=2, first=0)
    blocks = [config.Block(norm, attention, part) for part in parts]
    return decoder(keys, sizes, blocks, norm, context, vocab_size=102400, eos=2)
