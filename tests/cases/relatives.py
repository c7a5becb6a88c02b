"""Llama's relatives: Qwens, OLMos, StarCoder 2, SmolLM3, Granite and others."""

from typing import Any

_SIZES = {
    "vocab_size": 101,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": None,
    "eos_token_id": None,
}
_ODD = {
    "hidden_size": 35,
    "intermediate_size": 51,
    "num_attention_heads": 5,
    "num_key_value_heads": 1,
    "head_dim": 10,
    "vocab_size": 97,
}
_QWEN2 = _SIZES | {"model_type": "qwen2"}
_QWEN3 = _SIZES | {"model_type": "qwen3", "head_dim": 12}
_OLMO = _SIZES | {"model_type": "olmo"}
_OLMO2 = _SIZES | {"model_type": "olmo2"}
_OLMO3 = _SIZES | {"model_type": "olmo3", "sliding_window": 5}
_STARCODER2 = _SIZES | {"model_type": "starcoder2"}
_SMOLLM3 = _SIZES | {"model_type": "smollm3"}
_GRANITE = _SIZES | {"model_type": "granite"}
_EXAONE4 = _SIZES | {"model_type": "exaone4", "sliding_window": 5}
_SEED = _SIZES | {"model_type": "seed_oss", "head_dim": 12}
_ARCEE = _SIZES | {"model_type": "arcee"}
_HELIUM = _SIZES | {"model_type": "helium", "num_attention_heads": 4, "head_dim": 12}
_MINISTRAL = _SIZES | {"model_type": "ministral", "head_dim": 8}
_FULL, _SLIDING = "full_attention", "sliding_attention"
_YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 16, "attention_factor": 1.2}
_YARN |= {"beta_fast": 32.0, "beta_slow": 1.0}
_LLAMA3 = {"rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_LLAMA3 |= {"original_max_position_embeddings": 32}

CASES: dict[str, dict[str, Any]] = {
    "qwen2": _QWEN2,
    "qwen2-published-keys": _QWEN2
    | {"attention_dropout": 0.0, "max_window_layers": 21, "sliding_window": 32768, "use_mrope": False}
    | {"rope_theta": 1000000.0, "use_sliding_window": False, "tie_word_embeddings": True, "num_key_value_heads": 6},
    "qwen2-window-above": _QWEN2
    | _ODD
    | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1, "hidden_act": "gelu"},
    "qwen2-layer-types": _QWEN2
    | {"use_sliding_window": True, "sliding_window": 4, "layer_types": [_SLIDING, _FULL, _SLIDING]}
    | {"num_key_value_heads": None, "max_window_layers": 0}
    | {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}},
    "qwen3": _QWEN3,
    "qwen3-published-keys": _QWEN3
    | {"attention_bias": False, "attention_dropout": 0.0, "max_window_layers": 36, "sliding_window": None}
    | {"rope_scaling": None, "rope_theta": 1000000, "use_sliding_window": False, "tie_word_embeddings": True},
    "qwen3-biases-window-odd-sizes": _QWEN3
    | _ODD
    | {"attention_bias": True, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2},
    "qwen3-all-sliding": _QWEN3
    | {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 0, "num_key_value_heads": 6}
    | {"rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "yarn", "rope_theta": 900.0, "factor": 4.0}},
    "olmo": _OLMO | {"num_key_value_heads": None},
    "olmo-clipped-tied": _OLMO
    | {"clip_qkv": 0.7, "tie_word_embeddings": True, "attention_bias": True, "rope_theta": 500.0},
    "olmo-odd-sizes": _OLMO | _ODD | {"clip_qkv": None, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "olmo2": _OLMO2 | {"num_key_value_heads": 6},
    "olmo2-grouped-tied": _OLMO2
    | {"tie_word_embeddings": True, "attention_bias": True, "rms_norm_eps": 1e-6, "rope_theta": 500000},
    "olmo2-odd-sizes": _OLMO2 | _ODD | {"hidden_act": "gelu"},
    "olmo3": _OLMO3 | {"num_hidden_layers": 4, "num_key_value_heads": 6},
    "olmo3-yarn-v4": _OLMO3
    | _ODD
    | {"rope_theta": 500000, "rope_scaling": _YARN, "layer_types": [_SLIDING, _FULL, _SLIDING]},
    "olmo3-yarn-v5-tied": _OLMO3
    | {"rope_parameters": {_FULL: _YARN | {"rope_theta": 900.0}, _SLIDING: {"rope_type": "default"}}}
    | {"tie_word_embeddings": True, "attention_bias": True, "layer_types": [_FULL, _FULL, _SLIDING]},
    "starcoder2": _STARCODER2,
    "starcoder2-published-keys": _STARCODER2
    | {"activation_function": "gelu", "attention_softmax_in_fp32": True, "embedding_dropout": 0.1}
    | {"hidden_act": "gelu_pytorch_tanh", "layer_norm_epsilon": 1e-05, "mlp_type": "default", "norm_epsilon": 1e-05}
    | {"norm_type": "layer_norm", "residual_dropout": 0.1, "scale_attention_softmax_in_fp32": True}
    | {"scale_attn_weights": True, "rope_theta": 999999.4420358813, "sliding_window": 5, "use_bias": True},
    "starcoder2-odd-sizes-untied": _STARCODER2
    | _ODD
    | {"use_bias": False, "tie_word_embeddings": False, "hidden_act": "gelu", "norm_epsilon": 1e-3},
    "smollm3": _SMOLLM3 | {"num_hidden_layers": 4},
    "smollm3-published-keys": _SMOLLM3
    | {"attention_bias": False, "mlp_bias": False, "max_window_layers": 28, "pretraining_tp": 2}
    | {"no_rope_layers": [1, 0, 1], "no_rope_layer_interval": 4, "rope_scaling": None, "rope_theta": 5000000.0}
    | {"sliding_window": None, "use_sliding_window": False, "layer_types": [_FULL] * 3},
    "smollm3-windows-biases": _SMOLLM3
    | _ODD
    | {"use_sliding_window": True, "sliding_window": 5, "no_rope_layer_interval": 2, "attention_bias": True}
    | {"mlp_bias": True, "tie_word_embeddings": False},
    "granite": _GRANITE
    | {"embedding_multiplier": 12.0, "attention_multiplier": 0.2, "residual_multiplier": 0.22, "logits_scaling": 8.0}
    | {"tie_word_embeddings": True, "rope_scaling": None, "rope_theta": 10000000.0},
    "granite-defaults": _GRANITE | {"hidden_size": 24, "num_key_value_heads": 6},
    "granite-biases-odd-sizes": _GRANITE
    | _ODD
    | {"attention_bias": True, "mlp_bias": True, "residual_multiplier": 1.7, "attention_multiplier": 0.3},
    "seed_oss": _SEED,
    "seed_oss-biases-odd-sizes": _SEED
    | _ODD
    | {"attention_out_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "residual_dropout": 0.1},
    "seed_oss-no-biases": _SEED | {"attention_bias": False, "head_dim": None, "num_key_value_heads": 6},
    "arcee": _ARCEE,
    "arcee-biases-odd-sizes": _ARCEE
    | _ODD
    | {"attention_bias": True, "mlp_bias": True, "hidden_act": "silu", "tie_word_embeddings": True},
    "helium": _HELIUM | {"num_key_value_heads": 4},
    "helium-biases-tied": _HELIUM
    | {"hidden_size": 50, "num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 10, "vocab_size": 97}
    | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "rope_theta": 900.0},
    "ministral": _MINISTRAL | {"sliding_window": 5},
    "ministral-alternating-odd-sizes": _MINISTRAL
    | _ODD
    | {"sliding_window": 4, "layer_types": [_SLIDING, _FULL, _SLIDING], "tie_word_embeddings": True},
    "ministral-full": _MINISTRAL | {"sliding_window": 5, "layer_types": [_FULL] * 3, "num_key_value_heads": 6},
    "exaone4": _EXAONE4 | {"num_hidden_layers": 4},
    "exaone4-published-keys": _EXAONE4
    | _ODD
    | {"sliding_window_pattern": "LLLG", "layer_types": [_SLIDING, _SLIDING, _FULL], "rope_scaling": _LLAMA3},
    "exaone4-full": _EXAONE4
    | {"sliding_window": None, "sliding_window_pattern": None, "layer_types": [_FULL] * 3, "num_key_value_heads": 6}
    | {"tie_word_embeddings": True, "rope_theta": 1000000},
}
