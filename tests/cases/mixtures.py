"""Mixtures of experts."""

from typing import Any

_SIZES = {
    "vocab_size": 101,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "eos_token_id": None,
}
_ODD = {"hidden_size": 35, "num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 10, "vocab_size": 97}
_MIXTRAL = _SIZES | {"model_type": "mixtral", "intermediate_size": 40, "num_local_experts": 8}
_QWEN3 = _SIZES | {
    "model_type": "qwen3_moe",
    "num_hidden_layers": 3,
    "intermediate_size": 56,
    "moe_intermediate_size": 24,
    "num_experts": 16,
    "num_experts_per_tok": 4,
}
_DEEPSEEK = {name: value for name, value in _SIZES.items() if name != "num_key_value_heads"} | {
    "model_type": "deepseek_v3",
    "num_hidden_layers": 3,
    "intermediate_size": 56,
    "moe_intermediate_size": 24,
    "n_routed_experts": 16,
    "n_group": 4,
    "topk_group": 2,
    "num_experts_per_tok": 4,
    "first_k_dense_replace": 1,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 14,
    "kv_lora_rank": 20,
    "q_lora_rank": 26,
}
_DOTS = _SIZES | {
    "model_type": "dots1",
    "num_hidden_layers": 3,
    "intermediate_size": 56,
    "moe_intermediate_size": 24,
    "n_routed_experts": 16,
    "n_shared_experts": 2,
    "num_experts_per_tok": 4,
    "first_k_dense_replace": 1,
}
_GLM = _DOTS | {"model_type": "glm4_moe", "num_nextn_predict_layers": 1}
_ERNIE = _SIZES | {
    "model_type": "ernie4_5_moe",
    "num_hidden_layers": 3,
    "intermediate_size": 56,
    "moe_intermediate_size": 24,
    "moe_num_experts": 16,
    "moe_k": 4,
}
_GRANITE = _SIZES | {"model_type": "granitemoe", "intermediate_size": 24, "num_local_experts": 8}
_GPT_OSS = _SIZES | {
    "model_type": "gpt_oss",
    "num_hidden_layers": 3,
    "intermediate_size": 24,
    "head_dim": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 4,
    "sliding_window": 5,
}
_YARN = {"type": "yarn", "factor": 4, "beta_fast": 32, "beta_slow": 1, "original_max_position_embeddings": 32}

CASES: dict[str, dict[str, Any]] = {
    "mixtral": _MIXTRAL | {"sliding_window": None, "rope_theta": 1e6, "router_jitter_noise": 0.0},
    "mixtral-window-odd-sizes": _MIXTRAL
    | _ODD
    | {"sliding_window": 5, "num_local_experts": 5, "num_experts_per_tok": 3, "intermediate_size": 27}
    | {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    "qwen3_moe": _QWEN3 | {"head_dim": 12, "norm_topk_prob": True, "use_sliding_window": False, "sliding_window": None},
    "qwen3_moe-dense-layers": _QWEN3
    | {"num_hidden_layers": 4, "mlp_only_layers": [1], "decoder_sparse_step": 2, "num_key_value_heads": 6}
    | {"attention_bias": True, "tie_word_embeddings": True, "max_window_layers": 4, "output_router_logits": False}
    | {"qkv_bias": False, "use_qk_norm": True, "shared_expert_intermediate_size": 0},
    "qwen3_moe-window-odd-sizes": _QWEN3
    | _ODD
    | {"use_sliding_window": True, "sliding_window": 5, "num_experts": 7, "num_experts_per_tok": 1}
    | {"norm_topk_prob": True, "mlp_only_layers": [0], "moe_intermediate_size": 13, "hidden_act": "gelu"},
    "qwen2_moe": _SIZES
    | {"model_type": "qwen2_moe", "num_hidden_layers": 3, "intermediate_size": 56, "moe_intermediate_size": 24}
    | {"num_experts": 6, "shared_expert_intermediate_size": 40, "decoder_sparse_step": 2, "use_sliding_window": False}
    | {"sliding_window": 4096, "max_window_layers": 28},
    "qwen2_moe-odd-sizes": _SIZES
    | _ODD
    | {"model_type": "qwen2_moe", "moe_intermediate_size": 13, "num_experts": 5, "num_experts_per_tok": 2}
    | {"shared_expert_intermediate_size": 9, "norm_topk_prob": True, "qkv_bias": False, "tie_word_embeddings": True},
    "olmoe": _SIZES
    | {"model_type": "olmoe", "intermediate_size": 24, "num_experts": 16, "num_key_value_heads": 6, "clip_qkv": None},
    "olmoe-odd-sizes": _SIZES
    | {"model_type": "olmoe", "intermediate_size": 13, "num_experts": 7, "num_experts_per_tok": 3}
    | {"hidden_size": 40, "num_attention_heads": 5, "num_key_value_heads": 1, "norm_topk_prob": True}
    | {"attention_bias": True, "tie_word_embeddings": True, "rope_theta": 500.0},
    "deepseek_v3": _DEEPSEEK
    | {"rope_theta": 10000, "rope_scaling": _YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}, "ep_size": 1}
    | {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_freq": 1, "num_nextn_predict_layers": 1},
    "deepseek_v3-full-queries": _DEEPSEEK
    | {"q_lora_rank": None, "rope_interleave": False, "attention_bias": True, "n_shared_experts": 2, "n_group": 1}
    | {"topk_group": 1, "norm_topk_prob": False, "routed_scaling_factor": 0.7, "tie_word_embeddings": True},
    "deepseek_v3-odd-sizes": _DEEPSEEK
    | {"hidden_size": 35, "num_attention_heads": 5, "num_key_value_heads": 5, "vocab_size": 97, "n_routed_experts": 9}
    | {"n_group": 3, "num_experts_per_tok": 3, "qk_nope_head_dim": 7, "qk_rope_head_dim": 6, "v_head_dim": 9}
    | {"kv_lora_rank": 11, "q_lora_rank": 13, "first_k_dense_replace": 0, "moe_intermediate_size": 15}
    | {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "mscale": 0.7, "mscale_all_dim": 1.3}}
    | {"num_mtp_layers": 0},
    "deepseek_v3-wide-latents": _DEEPSEEK | {"kv_lora_rank": 48, "q_lora_rank": 64, "qk_nope_head_dim": 4},
    "deepseek_v2": _DEEPSEEK
    | {"model_type": "deepseek_v2", "q_lora_rank": None, "topk_method": "greedy", "n_group": 1, "topk_group": 1}
    | {"rope_scaling": _YARN | {"mscale": 0.707, "mscale_all_dim": 0.707}, "norm_topk_prob": False, "seq_aux": True}
    | {"scoring_func": "softmax", "moe_layer_freq": 1, "aux_loss_alpha": 0.001, "ep_size": 1},
    "deepseek_v2-groups": _DEEPSEEK
    | {"model_type": "deepseek_v2", "topk_method": "group_limited_greedy", "routed_scaling_factor": 16.0}
    | {"attention_bias": True, "tie_word_embeddings": True, "num_key_value_heads": 6, "first_k_dense_replace": 0},
    "dots1": _DOTS | {"sliding_window": None, "scoring_func": "noaux_tc", "norm_topk_prob": True, "head_dim": 12},
    "dots1-windows-odd-sizes": _DOTS
    | _ODD
    | {"sliding_window": 5, "max_window_layers": 1, "attention_bias": True, "n_group": 3, "topk_group": 2}
    | {"n_routed_experts": 9, "num_experts_per_tok": 3, "first_k_dense_replace": 0, "tie_word_embeddings": True},
    "glm4_moe": _GLM | {"use_qk_norm": True, "attention_bias": True, "partial_rotary_factor": 0.5},
    "glm4_moe-odd-sizes": _GLM
    | _ODD
    | {"head_dim": 20, "n_routed_experts": 9, "n_group": 3, "topk_group": 1, "num_experts_per_tok": 2}
    | {"norm_topk_prob": False, "routed_scaling_factor": 2.5, "n_shared_experts": 2, "tie_word_embeddings": True},
    "ernie4_5_moe": _ERNIE | {"moe_use_aux_free": True, "moe_gate": "topk", "moe_capacity": [64, 64, 64]},
    "ernie4_5_moe-odd-sizes": _ERNIE
    | _ODD
    | {"moe_layer_start_index": 0, "moe_layer_end_index": 2, "moe_layer_interval": 2, "moe_num_shared_experts": 0}
    | {"moe_num_experts": 7, "moe_k": 3, "tie_word_embeddings": False},
    "granitemoe": _GRANITE
    | {"embedding_multiplier": 12.0, "logits_scaling": 6.0, "residual_multiplier": 0.22, "attention_multiplier": None},
    "granitemoe-odd-sizes": _GRANITE
    | _ODD
    | {"attention_multiplier": 0.3, "attention_bias": True, "tie_word_embeddings": True, "num_local_experts": 5}
    | {"num_experts_per_tok": 1, "intermediate_size": 13},
    "gpt_oss": _GPT_OSS | {"rope_scaling": _YARN | {"truncate": False, "factor": 4.0}, "rope_theta": 150000},
    "gpt_oss-defaults": _GPT_OSS | {"sliding_window": 128, "initial_context_length": 4096, "experts_per_token": 4},
    "gpt_oss-odd-sizes": _GPT_OSS
    | _ODD
    | {"layer_types": ["full_attention", "sliding_attention", "full_attention"], "attention_bias": False}
    | {"num_local_experts": 5, "num_experts_per_tok": 2, "tie_word_embeddings": True, "swiglu_limit": 0.5}
    | {"swiglu_alpha": 1.3, "intermediate_size": 13, "rope_parameters": {}, "rope_theta": 900},
}
