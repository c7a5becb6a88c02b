"""What a config has that is an architecture's own, and is not a matter of names: each function adds keys to it."""

from typing import Any

from conversion.gguf.metadata import Model


def llama(model: Model) -> dict[str, Any]:
    """Which biases there are."""
    return {
        "attention_bias": model.has("blk.0.attn_q.bias"),
        "mlp_bias": model.has("blk.0.ffn_gate.bias"),
    }


def mixtral(model: Model) -> dict[str, Any]:
    """Experts; the window that some configs have was never used."""
    return {"num_experts_per_tok": model.size("expert_used_count"), "sliding_window": None}


def granite(model: Model) -> dict[str, Any]:
    """The four scales."""
    scales = {"attention_multiplier": "attention.scale", "embedding_multiplier": "embedding_scale"}
    scales |= {"residual_multiplier": "residual_scale", "logits_scaling": "logit_scale"}
    return llama(model) | {key: model.number(name) for key, name in scales.items()}


def olmo(model: Model) -> dict[str, Any]:
    """The limit of queries, keys and values; the norms have no weights."""
    model.keys.neutral(model.key("attention.layer_norm_epsilon"), (1e-5,))  # Transformers has it in its code
    return {"clip_qkv": model.number_or_none("attention.clamp_kqv")}


def qwen2_moe(model: Model) -> dict[str, Any]:
    """Experts, and the one that all tokens share."""
    return {"norm_topk_prob": False} | {
        "num_experts_per_tok": model.size("expert_used_count"),
        "moe_intermediate_size": model.size("expert_feed_forward_length"),
        "shared_expert_intermediate_size": model.size("expert_shared_feed_forward_length"),
    }


def qwen3_moe(model: Model) -> dict[str, Any]:
    """Experts."""
    return {"norm_topk_prob": True} | {
        "num_experts_per_tok": model.size("expert_used_count"),
        "moe_intermediate_size": model.size("expert_feed_forward_length"),
    }


def _query_scale(model: Model, layers_27b: int) -> int:
    """`query_pre_attn_scalar`, which files leave to the reader: not a head's size in the models of 27B only."""
    sizes = model.sizes
    if sizes["layers"] == layers_27b:
        return sizes["dim"] // sizes["heads"]
    return sizes["head_dim"]


def gemma2(model: Model) -> dict[str, Any]:
    """The window of every other layer, the soft limits of scores and logits."""
    return {
        "query_pre_attn_scalar": _query_scale(model, 46),
        "sliding_window": model.size("attention.sliding_window", 4096),
        "attn_logit_softcapping": model.number_or_none("attn_logit_softcapping"),
        "final_logit_softcapping": model.number_or_none("final_logit_softcapping"),
    }


def gemma3(model: Model) -> dict[str, Any]:
    """The window of five layers of six, and the rotary base in these."""
    return {
        "query_pre_attn_scalar": _query_scale(model, 62),
        "sliding_window": model.size("attention.sliding_window"),
        "sliding_window_pattern": model.size("attention.sliding_window_pattern", 6),
        "rope_local_base_freq": model.number("rope.freq_base_swa", 10_000.0),
        "attn_logit_softcapping": None,
        "final_logit_softcapping": model.number_or_none("final_logit_softcapping"),
    }


def phi3(model: Model) -> dict[str, Any]:
    """The window, and the length that a long context was extended from."""
    window = model.keys.take(model.key("attention.sliding_window"), kinds=(int,))
    original = model.header.values.get(model.key("rope.scaling.original_context_length"), model.sizes["context"])
    return {"sliding_window": window or None, "original_max_position_embeddings": original}


def bigcode(model: Model) -> dict[str, Any]:
    """Whether all heads share one key and value."""
    if model.sizes["kv_heads"] not in (1, model.sizes["heads"]):
        raise model.error(f"{model.key('attention.head_count_kv')} is neither 1 nor the number of heads")
    return {"multi_query": model.sizes["kv_heads"] == 1}


def gpt_neox(model: Model) -> dict[str, Any]:
    """The activation and the kind of block."""
    # GPT-NeoX-20B has the approximate GELU, Pythia and those trained from it the exact one.
    original = (model.sizes["layers"], model.sizes["dim"]) == (44, 6144)
    return {
        "hidden_act": "gelu_fast" if original else "gelu",
        "use_parallel_residual": model.flag("use_parallel_residual", True),
        "attention_bias": model.has("blk.0.attn_qkv.bias"),
    }


def starcoder2(model: Model) -> dict[str, Any]:
    """Which biases there are."""
    return {"use_bias": model.has("blk.0.attn_q.bias"), "sliding_window": None}


def falcon_7b(model: Model) -> dict[str, Any]:
    """Refuses the kin that the file does not tell in full."""
    if model.sizes["kv_heads"] != 1:  # Falcon 11B, whose rotary base the file does not tell
        raise model.error("several key-value heads, and tensor blk.0.attn_norm_2.weight is missing")
    return {}


def stablelm(model: Model) -> dict[str, Any]:
    """Which biases and norms there are, and the kind of block."""
    return {
        "use_qkv_bias": model.has("blk.0.attn_q.bias"),
        "qk_layernorm": model.has("blk.0.attn_q_norm.weight"),
        "use_parallel_residual": model.flag("use_parallel_residual", not model.has("blk.0.ffn_norm.weight")),
    }


def mpt(model: Model) -> dict[str, Any]:
    """The hidden size, and the biases by distance."""
    if model.sizes["hidden"] % model.sizes["dim"]:
        raise model.error(f"{model.key('feed_forward_length')} is not a multiple of embedding_length")
    most = model.number("attention.max_alibi_bias")
    return {
        "expansion_ratio": model.sizes["hidden"] // model.sizes["dim"],
        "attn_config": {
            "alibi": True,
            "alibi_bias_max": int(most) if most == int(most) else most,
            "clip_qkv": model.number_or_none("attention.clamp_kqv"),
        },
    }


def cohere(model: Model) -> dict[str, Any]:
    """Which biases and norms there are."""
    return {"use_qk_norm": model.has("blk.0.attn_q_norm.weight"), "attention_bias": model.has("blk.0.attn_q.bias")}
