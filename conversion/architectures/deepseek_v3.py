"""DeepSeek-V3 and R1: multi-head latent attention, and a sigmoid router with score correction and expert groups."""

from dataclasses import replace

from conversion.architectures.llama import EMBEDDING, EMBEDDING_AND_HEAD, FEED_FORWARD, IGNORED, NORMS
from conversion.architectures.qwen2_moe import EXPERTS, expert, shared_rows
from conversion.builders import ConfigReader, Sizes, decoder, gated_feed_forward, rms_norm, rotary, temperature
from conversion.table import TableRow, WeightTable
from jaxllm.config import (
    MAX_LAYERS,
    BlockConfig,
    DecoderConfig,
    FeedForwardConfig,
    LatentAttentionConfig,
    MixtureOfExpertsConfig,
    RMSNormConfig,
    RouterConfig,
)

_OURS = "layers.{i}.attention."
_THEIRS = "model.layers.{i}.self_attn."
_LATENT = (_OURS + "latent.", _OURS + "rope_key.")

LATENT_ATTENTION = (
    TableRow(_OURS + "query.weight", _THEIRS + "q_proj.weight", "(n h) d -> n h d"),
    TableRow(_OURS + "query_down.weight", _THEIRS + "q_a_proj.weight", "r d -> r d"),
    TableRow(_OURS + "query_down.bias", _THEIRS + "q_a_proj.bias", "r -> r"),
    TableRow(_OURS + "query_norm.weight", _THEIRS + "q_a_layernorm.weight", "r -> r"),
    TableRow(_OURS + "query_up.weight", _THEIRS + "q_b_proj.weight", "(n h) r -> n h r"),
    TableRow(tuple(name + "weight" for name in _LATENT), _THEIRS + "kv_a_proj_with_mqa.weight", "r d -> r d", "r"),
    TableRow(tuple(name + "bias" for name in _LATENT), _THEIRS + "kv_a_proj_with_mqa.bias", "r -> r", "r"),
    TableRow(_OURS + "latent_norm.weight", _THEIRS + "kv_a_layernorm.weight", "r -> r"),
    TableRow((_OURS + "key.weight", _OURS + "value.weight"), _THEIRS + "kv_b_proj.weight", "(n h) r -> n h r", "h"),
    TableRow(_OURS + "output.weight", _THEIRS + "o_proj.weight", "d (n h) -> d n h"),
    TableRow(_OURS + "output.bias", _THEIRS + "o_proj.bias", "d -> d"),
)
SHARED = shared_rows("shared_experts")
CORRECTION = TableRow(
    "layers.{i}.feed_forward.router.score_correction_bias",
    "model.layers.{i}.mlp.gate.e_score_correction_bias",
    "e -> e",
)
MULTI_TOKEN_PREDICTION = "model.layers.{i}.eh_proj.weight"

TABLE = WeightTable(
    (*EMBEDDING_AND_HEAD, *NORMS, *LATENT_ATTENTION, *FEED_FORWARD, *EXPERTS, *SHARED, CORRECTION),
    IGNORED,
    EMBEDDING,
    multi_token_prediction=MULTI_TOKEN_PREDICTION,
)


def latent_sizes(reader: ConfigReader, dim: int, layers: int, heads: int) -> Sizes:
    """Reads the sizes of a model with latent attention. `dim`, `layers` and `heads` are defaults.

    The head size of the result is not used: latent attention has sizes of its own.
    """
    heads = reader.size("num_attention_heads", heads)
    reader.neutral("num_key_value_heads", (heads, None))
    layers = reader.size("num_hidden_layers", layers, most=MAX_LAYERS)
    return Sizes(reader.size("hidden_size", dim), layers, heads, heads, 1)


def latent_attention(
    reader: ConfigReader, heads: int, context: int, interleaved: bool
) -> tuple[LatentAttentionConfig, int]:
    """Builds latent attention from DeepSeek's keys. `context` is the default maximum length.

    Returns it with the maximum length that rotary scaling extends to.
    """
    nope_dim = reader.size("qk_nope_head_dim", 128)
    rope_dim = reader.size("qk_rope_head_dim", 64)
    reader.neutral("head_dim", (rope_dim,))
    reader.neutral("qk_head_dim", (nope_dim + rope_dim, None))
    scale = (nope_dim + rope_dim) ** -0.5 * temperature(reader)
    position, context = rotary(
        reader, reader.size("max_position_embeddings", context), rope_dim, interleaved=interleaved
    )
    attention = LatentAttentionConfig(
        heads,
        nope_dim,
        rope_dim,
        value_dim=reader.size("v_head_dim", 128),
        kv_lora_rank=reader.size("kv_lora_rank", 512),
        q_lora_rank=reader.size_or_none("q_lora_rank", 1536),
        norm=RMSNormConfig(1e-6),  # whatever the others' epsilon
        scale=scale,
        position=position,
        bias=reader.flag("attention_bias", False),
    )
    return attention, context


def sigmoid_router(
    reader: ConfigReader,
    num_experts: int | None,
    num_experts_per_tok: int | None,
    *,
    n_group: int = 1,
    topk_group: int = 1,
    routed_scaling_factor: float = 1.0,
    norm_topk_prob: bool = True,
) -> RouterConfig:
    """Builds the router of DeepSeek-V3 and its derivatives.

    The other arguments are the defaults of its keys; None stands for a key that must be present.
    """
    reader.alias("n_routed_experts", "num_local_experts")
    reader.neutral("scoring_func", ("sigmoid", "noaux_tc"))
    reader.neutral("topk_method", ("noaux_tc",))
    return RouterConfig(
        reader.size("n_routed_experts", num_experts),
        reader.size("num_experts_per_tok", num_experts_per_tok),
        "sigmoid",
        norm_topk_prob=reader.flag("norm_topk_prob", norm_topk_prob),
        routed_scaling_factor=float(reader.number("routed_scaling_factor", routed_scaling_factor)),
        score_correction_bias=True,
        n_group=reader.size("n_group", n_group),
        topk_group=reader.size("topk_group", topk_group),
    )


def dense_then_mixtures(
    reader: ConfigReader,
    layers: int,
    router: RouterConfig,
    dense: FeedForwardConfig,
    *,
    moe_intermediate_size: int,
    n_shared_experts: int | None,
    first_k_dense_replace: int,
) -> list[FeedForwardConfig | MixtureOfExpertsConfig]:
    """Builds the feed-forward network of each layer: `first_k_dense_replace` dense ones, then mixtures of experts.

    `moe_intermediate_size`, `n_shared_experts` and `first_k_dense_replace` are the defaults of these keys.
    """
    reader.neutral("moe_layer_freq", (1,))
    for name in ("num_nextn_predict_layers", "num_mtp_layers", "ep_size", "seq_aux", "aux_loss_alpha"):
        reader.take(name, None)  # layers that we leave out; how the others were trained
    routed_expert = expert(reader, dense, moe_intermediate_size)
    first_sparse_layer = reader.take("first_k_dense_replace", first_k_dense_replace, (int,))
    shared_expert = replace(
        routed_expert, hidden=routed_expert.hidden * reader.size("n_shared_experts", n_shared_experts)
    )
    return [
        dense if layer < first_sparse_layer else MixtureOfExpertsConfig(router, routed_expert, shared_expert)
        for layer in range(layers)
    ]


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `DeepseekV3Config`; defaults are those of Transformers."""
    sizes = latent_sizes(reader, 7168, 61, 128)
    norm = rms_norm(reader)
    attention, context = latent_attention(reader, sizes.heads, 4096, interleaved=reader.flag("rope_interleave", True))
    router = sigmoid_router(reader, 256, 8, n_group=8, topk_group=4, routed_scaling_factor=2.5)
    networks = dense_then_mixtures(
        reader,
        sizes.layers,
        router,
        gated_feed_forward(reader, 18432),
        moe_intermediate_size=2048,
        n_shared_experts=1,
        first_k_dense_replace=3,
    )
    blocks = [BlockConfig(attention, network, pre_norm=norm) for network in networks]
    return decoder(reader, sizes, blocks, norm, context, vocab_size=129280, eos=1)
