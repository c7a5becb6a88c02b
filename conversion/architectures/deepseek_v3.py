"""DeepSeek-V3 and R1: latent attention, and experts chosen within the best groups by corrected sigmoid scores."""

from dataclasses import replace

from conversion.architectures.llama import EMBEDDING, ENDS, FEED_FORWARD, IGNORED, NORMS
from conversion.architectures.qwen2_moe import EXPERTS, expert, shared_rows
from conversion.keys import Keys
from conversion.rotary import rotary, temperature
from conversion.sizes import Sizes, decoder, gated, rms_norm
from conversion.table import Row, Table
from jaxllm import config

_OURS, _THEIRS = "layers.{i}.attention.", "model.layers.{i}.self_attn."
_LATENT = (_OURS + "latent.", _OURS + "rope_key.")

LATENT_ATTENTION = (
    Row(_OURS + "query.weight", _THEIRS + "q_proj.weight", "(n h) d -> n h d"),
    Row(_OURS + "query_down.weight", _THEIRS + "q_a_proj.weight", "r d -> r d"),
    Row(_OURS + "query_down.bias", _THEIRS + "q_a_proj.bias", "r -> r"),
    Row(_OURS + "query_norm.weight", _THEIRS + "q_a_layernorm.weight", "r -> r"),
    Row(_OURS + "query_up.weight", _THEIRS + "q_b_proj.weight", "(n h) r -> n h r"),
    Row(tuple(name + "weight" for name in _LATENT), _THEIRS + "kv_a_proj_with_mqa.weight", "r d -> r d", "r"),
    Row(tuple(name + "bias" for name in _LATENT), _THEIRS + "kv_a_proj_with_mqa.bias", "r -> r", "r"),
    Row(_OURS + "latent_norm.weight", _THEIRS + "kv_a_layernorm.weight", "r -> r"),
    Row((_OURS + "key.weight", _OURS + "value.weight"), _THEIRS + "kv_b_proj.weight", "(n h) r -> n h r", "h"),
    Row(_OURS + "output.weight", _THEIRS + "o_proj.weight", "d (n h) -> d n h"),
    Row(_OURS + "output.bias", _THEIRS + "o_proj.bias", "d -> d"),
)
SHARED = shared_rows("shared_experts")
CORRECTION = Row(
    "layers.{i}.feed_forward.router.correction", "model.layers.{i}.mlp.gate.e_score_correction_bias", "e -> e"
)
FURTHER = "model.layers.{i}.eh_proj.weight"

TABLE = Table(
    (*ENDS, *NORMS, *LATENT_ATTENTION, *FEED_FORWARD, *EXPERTS, *SHARED, CORRECTION),
    IGNORED,
    EMBEDDING,
    further=FURTHER,
)


def latent_sizes(keys: Keys, dim: int, layers: int, heads: int) -> Sizes:
    """The sizes that are spelt as Llama's, the defaults given; heads share one key, and no sizes of theirs are here."""
    heads = keys.size("num_attention_heads", heads)
    keys.neutral("num_key_value_heads", (heads, None))
    layers = keys.size("num_hidden_layers", layers, most=config.MAX_LAYERS)
    return Sizes(keys.size("hidden_size", dim), layers, heads, heads, 1)


def latent_attention(keys: Keys, heads: int, context: int, interleaved: bool) -> tuple[config.LatentAttention, int]:
    """Latent attention as DeepSeek's configs spell it, and the context, its default given."""
    plain, turned = keys.size("qk_nope_head_dim", 128), keys.size("qk_rope_head_dim", 64)
    keys.neutral("head_dim", (turned,))
    keys.neutral("qk_head_dim", (plain + turned, None))
    scale = (plain + turned) ** -0.5 * temperature(keys)
    position, context = rotary(keys, keys.size("max_position_embeddings", context), turned, interleaved=interleaved)
    part = config.LatentAttention(
        heads,
        plain,
        turned,
        value_dim=keys.size("v_head_dim", 128),
        latent_dim=keys.size("kv_lora_rank", 512),
        query_latent_dim=keys.size_or_none("q_lora_rank", 1536),
        norm=config.RMSNorm(1e-6),  # whatever the others' epsilon
        scale=scale,
        position=position,
        bias=keys.flag("attention_bias", False),
    )
    return part, context


def sigmoid_router(
    keys: Keys,
    experts: int | None,
    per_token: int | None,
    *,
    groups: int = 1,
    kept: int = 1,
    scale: float = 1.0,
    normalize: bool = True,
) -> config.Router:
    """The router of DeepSeek-V3 and those after it, the defaults given (None for a key that must be there)."""
    keys.alias("n_routed_experts", "num_local_experts")
    keys.neutral("scoring_func", ("sigmoid", "noaux_tc"))
    keys.neutral("topk_method", ("noaux_tc",))
    return config.Router(
        keys.size("n_routed_experts", experts),
        keys.size("num_experts_per_tok", per_token),
        "sigmoid",
        normalize=keys.flag("norm_topk_prob", normalize),
        scale=float(keys.number("routed_scaling_factor", scale)),
        correction=True,
        groups=keys.size("n_group", groups),
        kept_groups=keys.size("topk_group", kept),
    )


def dense_then_mixtures(
    keys: Keys,
    layers: int,
    router: config.Router,
    dense: config.FeedForward,
    *,
    hidden: int,
    shared: int | None,
    first: int,
) -> list[config.FeedForward | config.Mixture]:
    """The feed-forward part of each layer: `first_k_dense_replace` dense ones, then mixtures; the defaults given."""
    keys.neutral("moe_layer_freq", (1,))
    for name in ("num_nextn_predict_layers", "num_mtp_layers", "ep_size", "seq_aux", "aux_loss_alpha"):
        keys.take(name, None)  # layers that we leave out; how the others were trained
    one, start = expert(keys, dense, hidden), keys.take("first_k_dense_replace", first, (int,))
    together = replace(one, hidden=one.hidden * keys.size("n_shared_experts", shared))
    return [dense if layer < start else config.Mixture(router, one, together) for layer in range(layers)]


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `DeepseekV3Config`'s keys; defaults are Transformers'."""
    sizes, norm = latent_sizes(keys, 7168, 61, 128), rms_norm(keys)
    attention, context = latent_attention(keys, sizes.heads, 4096, interleaved=keys.flag("rope_interleave", True))
    router = sigmoid_router(keys, 256, 8, groups=8, kept=4, scale=2.5)
    parts = dense_then_mixtures(keys, sizes.layers, router, gated(keys, 18432), hidden=2048, shared=1, first=3)
    blocks = [config.Block(norm, attention, part) for part in parts]
    return decoder(keys, sizes, blocks, norm, context, vocab_size=129280, eos=1)
