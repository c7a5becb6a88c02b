"""ERNIE 4.5's mixtures: neighbouring dimensions turned, and experts chosen by corrected softmax scores."""

from dataclasses import replace

from conversion.architectures.deepseek_v3 import SHARED
from conversion.architectures.llama import ATTENTION, EMBEDDING, ENDS, FEED_FORWARD, IGNORED, NORMS
from conversion.architectures.qwen2_moe import EXPERTS, expert
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.sizes import Sizes, decoder, gated, rms_norm
from conversion.table import Row, Table
from jaxllm import config

_CORRECTION = Row(
    "layers.{i}.feed_forward.router.correction",
    "model.layers.{i}.mlp.moe_statics.e_score_correction_bias",
    "one e -> (one e)",
)

CLASS = "Ernie4_5_MoeForCausalLM"
TABLE = Table(
    (*ENDS, *NORMS, *ATTENTION, *FEED_FORWARD, *EXPERTS, *SHARED, _CORRECTION),
    {**IGNORED, "model.mtp_*": "predicts further tokens"},
    EMBEDDING,
)


def _sparse_layers(keys: Keys, layers: int) -> list[bool]:
    """Which layers have experts: every `moe_layer_interval`-th from a first to a last one (-1 for the very last)."""
    first, last = (keys.take(f"moe_layer_{name}_index", d, (int,)) for name, d in (("start", 1), ("end", -1)))
    step, last = keys.size("moe_layer_interval", 1), layers - 1 if last == -1 else last
    return [first <= layer <= last and (layer + 1) % step == 0 for layer in range(layers)]


def _mixture(keys: Keys, dense: config.FeedForward) -> config.Mixture:
    keys.alias("moe_num_experts", "num_experts")
    keys.alias("moe_k", "num_experts_per_tok")
    keys.neutral("moe_norm_min", (1e-12,))  # beneath any sum of scores
    router = config.Router(keys.size("moe_num_experts", 64), keys.size("moe_k", 6), correction=True)
    one, shared = expert(keys, dense, 1536), keys.take("moe_num_shared_experts", 2, (int,))
    together = replace(dense, hidden=one.hidden * shared) if shared > 0 else None
    return config.Mixture(router, one, together)


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `Ernie4_5_MoeConfig`'s keys; defaults are Transformers'."""
    for name, only in (("use_bias", False), ("moe_gate", "topk"), ("moe_use_aux_free", True), ("compression_ratio", 1)):
        keys.neutral(name, (only, None))
    for name in ("moe_capacity", "num_nextn_predict_layers"):
        keys.take(name, None)  # the authors' training; layers that are left out
    sizes, norm = Sizes.of(keys, 2560, 28, 20, kv_heads=4), rms_norm(keys, 1e-5)
    length = keys.size("max_position_embeddings", 131072)
    position, context = rotary(keys, length, sizes.head_dim, theta=500_000.0, interleaved=True)
    attention, dense = sizes.attention(position), gated(keys, 12288)
    mixture = _mixture(keys, dense)
    blocks = [config.Block(norm, attention, mixture if s else dense) for s in _sparse_layers(keys, sizes.layers)]
    return decoder(keys, sizes, blocks, norm, context, vocab_size=103424, tied=True, eos=2)
