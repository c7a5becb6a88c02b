"""Phi-3, StableLM, Command R, and the GLMs."""

from typing import Any

_SIZES = {
    "vocab_size": 101,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "eos_token_id": None,
}
_ODD = {
    "hidden_size": 35,
    "intermediate_size": 51,
    "num_attention_heads": 5,
    "num_key_value_heads": 1,
    "vocab_size": 97,
}
_PHI3 = _SIZES | {"model_type": "phi3", "pad_token_id": None}
_LONG = {"short_factor": [1.0, 1.1, 1.3, 2.0], "long_factor": [1.2, 2.5, 4.0, 9.5]}
_PUBLISHED_PHI3 = {
    "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "attention_bias": False,
    "mlp_bias": False,
    "lm_head_bias": False,
    "full_attn_mod": 1,
    "interpolate_factor": 1,
}
_STABLELM = _SIZES | {"model_type": "stablelm"}
_COHERE = _SIZES | {"model_type": "cohere", "logit_scale": 0.25, "pad_token_id": None}
_COHERE2 = _COHERE | {"model_type": "cohere2", "sliding_window": 5, "num_hidden_layers": 3}
_GLM = _SIZES | {"model_type": "glm", "head_dim": 16, "pad_token_id": None}
_GLM4 = _GLM | {"model_type": "glm4"}
_NEMOTRON = _SIZES | {"model_type": "nemotron"}
_ERNIE = _SIZES | {"model_type": "ernie4_5", "head_dim": 12, "pad_token_id": None}

CASES: dict[str, dict[str, Any]] = {
    "phi3": _PHI3,
    "phi3-odd-sizes": _PHI3 | _ODD | {"head_dim": 10, "sliding_window": 5, "hidden_act": "gelu"},
    "phi3-below-original": _PHI3
    | {"max_position_embeddings": 512, "original_max_position_embeddings": 128, "sliding_window": 9}
    | {"rope_scaling": {"type": "su", "original_max_position_embeddings": 128, **_LONG}},
    "phi3-crossing": _PHI3
    | {"num_key_value_heads": 6, "original_max_position_embeddings": 11, "rope_theta": 50.0}
    | {"rope_scaling": {"type": "longrope", **_LONG}, "num_hidden_layers": 3},
    "phi3-published-keys": _PHI3
    | {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4, "partial_rotary_factor": 0.75}
    | {"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 6, "long_factor": [1, 1.5, 2, 3, 5.5, 8]}}
    | {"original_max_position_embeddings": 20, "sliding_window": 40, "tie_word_embeddings": True}
    | _PUBLISHED_PHI3,
    "phi3-longrope-v5": _PHI3
    | {"original_max_position_embeddings": 12}
    | {"rope_parameters": {"rope_type": "longrope", "rope_theta": 500.0, "factor": 3.0, **_LONG}},
    "stablelm": _STABLELM | {"hidden_size": 64, "num_attention_heads": 4, "partial_rotary_factor": 0.5},
    "stablelm-parallel-head-norms": _STABLELM
    | {"qk_layernorm": True, "use_parallel_residual": True, "hidden_size": 60, "num_attention_heads": 10}
    | {"rope_parameters": {"rope_type": "default", "rope_theta": 900.0, "partial_rotary_factor": 1 / 3}},
    "stablelm-head-norms-biases-tied": _STABLELM
    | {"qk_layernorm": True, "use_qkv_bias": True, "tie_word_embeddings": True, "hidden_size": 40}
    | {"num_attention_heads": 5, "num_key_value_heads": 5, "num_hidden_layers": 3, "layer_norm_eps": 1e-3},
    "stablelm-published-keys": _STABLELM
    | {"norm_eps": 1e-5, "rope_pct": 0.25, "rotary_scaling_factor": 1.0, "use_norm_bias": False, "rope_scaling": None}
    | {"num_key_value_heads": 6, "use_parallel_residual": True, "use_qkv_bias": True, "rope_theta": 10000},
    "cohere": _COHERE,
    "cohere-head-norms-untied": _COHERE
    | {"use_qk_norm": True, "tie_word_embeddings": False, "attention_bias": True, "num_hidden_layers": 3},
    "cohere-odd-sizes": _COHERE | _ODD | {"head_dim": 10, "use_qk_norm": True, "layer_norm_eps": 1e-3},
    "cohere-published-keys": _COHERE
    | {"rope_theta": 8000000.0, "model_max_length": 128, "pretraining_tp": 1, "use_qk_norm": False}
    | {"num_key_value_heads": 6, "logit_scale": 0.0625},
    "cohere2": _COHERE2,
    "cohere2-types": _COHERE2
    | {"layer_types": ["full_attention", "sliding_attention", "sliding_attention"], "attention_bias": True}
    | {"tie_word_embeddings": False, "num_key_value_heads": 6, "rope_parameters": {"rope_theta": 900.0}},
    "cohere2-odd-sizes": _COHERE2 | _ODD | {"head_dim": 10, "sliding_window_pattern": 2, "logit_scale": 1.0},
    "cohere2-published-keys": _COHERE2
    | {"cache_implementation": "hybrid", "layer_switch": 3, "sliding_window_pattern": 3, "rotary_pct": 1.0}
    | {"order_of_interleaved_layers": "local_attn_first", "position_embedding_type": "rope_gptj"}
    | {"use_embedding_sharing": True, "use_gated_activation": True, "use_parallel_block": True, "use_qk_norm": False}
    | {"use_parallel_embedding": True, "rope_theta": 50000, "rope_scaling": None, "num_hidden_layers": 4},
    "glm": _GLM,
    "glm-odd-sizes-tied": _GLM | _ODD | {"head_dim": 20, "attention_bias": False, "tie_word_embeddings": True},
    "glm4": _GLM4,
    "glm4-full-rotary": _GLM4
    | {"attention_bias": False, "num_key_value_heads": 6, "tie_word_embeddings": True, "num_hidden_layers": 3}
    | {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0}},
    "glm4-odd-sizes": _GLM4 | _ODD | {"head_dim": 12, "hidden_act": "gelu", "rms_norm_eps": 1e-3},
    "nemotron": _NEMOTRON | {"hidden_size": 64, "num_attention_heads": 4},
    "nemotron-biases-tied": _NEMOTRON
    | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "num_key_value_heads": 6}
    | {"head_dim": 12, "partial_rotary_factor": 1.0, "hidden_act": "gelu", "num_hidden_layers": 3},
    "nemotron-odd-sizes": _NEMOTRON | _ODD | {"head_dim": 12, "norm_eps": 1e-3, "rope_percent": 0.5},
    "ernie4_5": _ERNIE | {"compression_ratio": 1.0},
    "ernie4_5-biases-untied": _ERNIE
    | {"use_bias": True, "tie_word_embeddings": False, "num_key_value_heads": 6, "rope_theta": 900.0},
}
