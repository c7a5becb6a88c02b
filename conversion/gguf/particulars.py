"""Keys of config.json that only one architecture has, or that depend on the file: each function returns some."""

from typing import Any

from conversion.gguf.metadata import GGUFModel


def llama(model: GGUFModel) -> dict[str, Any]:
    """Reads which biases the model has."""
    return {
        "attention_bias": model.has("blk.0.attn_q.bias"),
        "mlp_bias": model.has("blk.0.ffn_gate.bias"),
    }


def mixtral(model: GGUFModel) -> dict[str, Any]:
    """Reads the experts. Mixtral never used the window that some configs have."""
    return {"num_experts_per_tok": model.size("expert_used_count"), "sliding_window": None}


def granite(model: GGUFModel) -> dict[str, Any]:
    """Reads the four multipliers."""
    scales = {"attention_multiplier": "attention.scale", "embedding_multiplier": "embedding_scale"}
    scales |= {"residual_multiplier": "residual_scale", "logits_scaling": "logit_scale"}
    return llama(model) | {key: model.number(name) for key, name in scales.items()}


def olmo(model: GGUFModel) -> dict[str, Any]:
    """Reads the bound of queries, keys and values. The norms have no weights."""
    model.keys.neutral(model.key("attention.layer_norm_epsilon"), (1e-5,))  # Transformers has it in its code
    return {"clip_qkv": model.number_or_none("attention.clamp_kqv")}


def qwen2_moe(model: GGUFModel) -> dict[str, Any]:
    """Reads the routed experts and the shared expert."""
    return {"norm_topk_prob": False} | {
        "num_experts_per_tok": model.size("expert_used_count"),
        "moe_intermediate_size": model.size("expert_feed_forward_length"),
        "shared_expert_intermediate_size": model.size("expert_shared_feed_forward_length"),
    }


def qwen3_moe(model: GGUFModel) -> dict[str, Any]:
    """Reads the experts."""
    return {"norm_topk_prob": True} | {
        "num_experts_per_tok": model.size("expert_used_count"),
        "moe_intermediate_size": model.size("expert_feed_forward_length"),
    }


def _query_scale(model: GGUFModel, layers_27b: int) -> int:
    """Returns `query_pre_attn_scalar`, which GGUF files leave out: the head size, except in the 27B models."""
    sizes = model.sizes
    if sizes["layers"] == layers_27b:
        return sizes["dim"] // sizes["heads"]
    return sizes["head_dim"]


def gemma2(model: GGUFModel) -> dict[str, Any]:
    """Reads the window of every other layer, and the soft caps of scores and logits."""
    return {
        "query_pre_attn_scalar": _query_scale(model, 46),
        "sliding_window": model.size("attention.sliding_window", 4096),
        "attn_logit_softcapping": model.number_or_none("attn_logit_softcapping"),
        "final_logit_softcapping": model.number_or_none("final_logit_softcapping"),
    }


def gemma3(model: GGUFModel) -> dict[str, Any]:
    """Reads the window of five of six layers, and the rotary base of these layers."""
    return {
        "query_pre_attn_scalar": _query_scale(model, 62),
        "sliding_window": model.size("attention.sliding_window"),
        "sliding_window_pattern": model.size("attention.sliding_window_pattern", 6),
        "rope_local_base_freq": model.number("rope.freq_base_swa", 10_000.0),
        "attn_logit_softcapping": None,
        "final_logit_softcapping": model.number_or_none("final_logit_softcapping"),
    }


def phi3(model: GGUFModel) -> dict[str, Any]:
    """Reads the window, and the original length of LongRoPE."""
    window = model.keys.take(model.key("attention.sliding_window"), kinds=(int,))
    original = model.header.values.get(model.key("rope.scaling.original_context_length"), model.sizes["context"])
    return {"sliding_window": window or None, "original_max_position_embeddings": original}


def bigcode(model: GGUFModel) -> dict[str, Any]:
    """Reads whether all query heads share one key-value head."""
    if model.sizes["kv_heads"] not in (1, model.sizes["heads"]):
        raise model.error(f"{model.key('attention.head_count_kv')} is neither 1 nor the number of heads")
    return {"multi_query": model.sizes["kv_heads"] == 1}


def gpt_neox(model: GGUFModel) -> dict[str, Any]:
    """Reads the activation, and whether blocks are parallel."""
    # GPT-NeoX-20B has the approximate GELU, Pythia and those trained from it the exact one.
    original = (model.sizes["layers"], model.sizes["dim"]) == (44, 6144)
    return {
        "hidden_act": "gelu_fast" if original else "gelu",
        "use_parallel_residual": model.flag("use_parallel_residual", True),
        "attention_bias": model.has("blk.0.attn_qkv.bias"),
    }


def starcoder2(model: GGUFModel) -> dict[str, Any]:
    """Reads which biases the model has."""
    return {"use_bias": model.has("blk.0.attn_q.bias"), "sliding_window": None}


def falcon_7b(model: GGUFModel) -> dict[str, Any]:
    """Rejects Falcon models whose GGUF files are incomplete."""
    if model.sizes["kv_heads"] != 1:  # Falcon 11B, whose rotary base the file does not tell
        raise model.error("several key-value heads, and tensor blk.0.attn_norm_2.weight is missing")
    return {}


def stablelm(model: GGUFModel) -> dict[str, Any]:
    """Reads which biases and norms the model has, and whether blocks are parallel."""
    return {
        "use_qkv_bias": model.has("blk.0.attn_q.bias"),
        "qk_layernorm": model.has("blk.0.attn_q_norm.weight"),
        "use_parallel_residual": model.flag("use_parallel_residual", not model.has("blk.0.ffn_norm.weight")),
    }


def mpt(model: GGUFModel) -> dict[str, Any]:
    """Reads the hidden size and the ALiBi settings."""
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


def cohere(model: GGUFModel) -> dict[str, Any]:
    """Reads which biases and norms the model has."""
    return {"use_qk_norm": model.has("blk.0.attn_q_norm.weight"), "attention_bias": model.has("blk.0.attn_q.bias")}
