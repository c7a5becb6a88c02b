"""ERNIE 4.5 (mixture of experts): interleaved rotary embeddings, and a softmax router with score correction."""

from dataclasses import replace

from conversion.architectures.deepseek_v3 import SHARED
from conversion.architectures.llama import ATTENTION, EMBEDDING, EMBEDDING_AND_HEAD, FEED_FORWARD, IGNORED, NORMS
from conversion.architectures.qwen2_moe import EXPERTS, expert
from conversion.builders import ConfigReader, Sizes, decoder, gated_feed_forward, rms_norm, rotary
from conversion.table import TableRow, WeightTable
from jaxllm.config import BlockConfig, DecoderConfig, FeedForwardConfig, MixtureOfExpertsConfig, RouterConfig

_CORRECTION = TableRow(
    "layers.{i}.feed_forward.router.score_correction_bias",
    "model.layers.{i}.mlp.moe_statics.e_score_correction_bias",
    "one e -> (one e)",
)

CLASS = "Ernie4_5_MoeForCausalLM"
TABLE = WeightTable(
    (*EMBEDDING_AND_HEAD, *NORMS, *ATTENTION, *FEED_FORWARD, *EXPERTS, *SHARED, _CORRECTION),
    {**IGNORED, "model.mtp_*": "predicts further tokens"},
    EMBEDDING,
)


def _sparse_layers(reader: ConfigReader, layers: int) -> list[bool]:
    """Tells for each layer whether it has experts: every `moe_layer_interval`-th one between two given layers."""
    first, last = (reader.take(f"moe_layer_{name}_index", d, (int,)) for name, d in (("start", 1), ("end", -1)))
    step = reader.size("moe_layer_interval", 1)
    if last == -1:
        last = layers - 1
    return [first <= layer <= last and (layer + 1) % step == 0 for layer in range(layers)]


def _mixture(reader: ConfigReader, dense: FeedForwardConfig) -> MixtureOfExpertsConfig:
    reader.alias("moe_num_experts", "num_experts")
    reader.alias("moe_k", "num_experts_per_tok")
    reader.neutral("moe_norm_min", (1e-12,))  # beneath any sum of scores
    router = RouterConfig(reader.size("moe_num_experts", 64), reader.size("moe_k", 6), score_correction_bias=True)
    one = expert(reader, dense, 1536)
    shared = reader.take("moe_num_shared_experts", 2, (int,))
    together = None
    if shared > 0:
        together = replace(dense, hidden=one.hidden * shared)
    return MixtureOfExpertsConfig(router, one, together)


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `Ernie4_5_MoeConfig`; defaults are those of Transformers."""
    for name, only in (("use_bias", False), ("moe_gate", "topk"), ("moe_use_aux_free", True), ("compression_ratio", 1)):
        reader.neutral(name, (only, None))
    for name in ("moe_capacity", "num_nextn_predict_layers"):
        reader.take(name, None)  # the authors' training; layers that are left out
    sizes = Sizes.of(reader, 2560, 28, 20, kv_heads=4)
    norm = rms_norm(reader, 1e-5)
    length = reader.size("max_position_embeddings", 131072)
    position, context = rotary(reader, length, sizes.head_dim, theta=500_000.0, interleaved=True)
    attention = sizes.attention(position)
    dense = gated_feed_forward(reader, 12288)
    mixture = _mixture(reader, dense)
    blocks = [
        BlockConfig(attention, mixture if sparse else dense, pre_norm=norm)
        for sparse in _sparse_layers(reader, sizes.layers)
    ]
    return decoder(reader, sizes, blocks, norm, context, vocab_size=103424, tied=True, eos=2)
