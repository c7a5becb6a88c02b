"""The Gemmas."""

from typing import Any

_SIZES = {
    "vocab_size": 101,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 128,
    "eos_token_id": None,
}
_ODD = {"hidden_size": 35, "intermediate_size": 51, "num_attention_heads": 5, "head_dim": 10, "vocab_size": 97}
_PUBLISHED = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "cache_implementation": "hybrid",
    "bos_token_id": 2,
    "pad_token_id": 0,
    "torch_dtype": "float32",
}
_GEMMA = _SIZES | {"model_type": "gemma"}
_GEMMA2 = _SIZES | {"model_type": "gemma2", "sliding_window": 5, "query_pre_attn_scalar": 10}
_GEMMA3 = _SIZES | {"model_type": "gemma3_text", "sliding_window": 5, "query_pre_attn_scalar": 100}
_FULL, _SLIDING = "full_attention", "sliding_attention"

CASES: dict[str, dict[str, Any]] = {
    "gemma": _GEMMA,
    "gemma-published-keys": _GEMMA
    | _PUBLISHED
    | {"hidden_act": "gelu", "hidden_activation": None, "rope_scaling": None, "rope_theta": 10000.0},
    "gemma-untied-biases": _GEMMA
    | {"tie_word_embeddings": False, "attention_bias": True, "num_key_value_heads": 6, "hidden_act": "silu"},
    "gemma-odd-sizes": _GEMMA
    | _ODD
    | {"num_key_value_heads": 1, "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-5}
    | {"rope_parameters": {"rope_type": "linear", "rope_theta": 700.0, "factor": 2.0}},
    "gemma2": _GEMMA2,
    "gemma2-published-keys": _GEMMA2
    | _PUBLISHED
    | {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "sliding_window_size": 5}
    | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "rope_theta": 5000.0},
    "gemma2-no-caps-untied": _GEMMA2
    | {"attn_logit_softcapping": None, "final_logit_softcapping": None, "tie_word_embeddings": False}
    | {"hidden_activation": "gelu", "attention_bias": True, "num_key_value_heads": 6},
    "gemma2-odd-sizes": _GEMMA2
    | _ODD
    | {"num_key_value_heads": 5, "layer_types": [_FULL, _FULL, _SLIDING], "sliding_window": 3},
    "gemma3_text": _GEMMA3,
    "gemma3_text-published-keys": _GEMMA3
    | _PUBLISHED
    | {"rope_theta": 1000000, "rope_local_base_freq": 10000, "rope_scaling": None, "sliding_window_pattern": 2}
    | {"hidden_activation": "gelu_pytorch_tanh", "attn_logit_softcapping": None, "final_logit_softcapping": None},
    "gemma3_text-linear-v4": _GEMMA3
    | _ODD
    | {"rope_theta": 3000.0, "rope_local_base_freq": 100.0, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}
    | {"num_key_value_heads": 1, "sliding_window_pattern": 3, "rms_norm_eps": 1e-5},
    "gemma3_text-linear-v5": _GEMMA3
    | {
        "rope_parameters": {
            _FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 3000.0},
            _SLIDING: {"rope_type": "default", "rope_theta": 100.0},
        },
        "layer_types": [_FULL, _SLIDING, _SLIDING],
        "_sliding_window_pattern": 6,
        "use_bidirectional_attention": False,
    },
    "gemma3_text-cap-untied": _GEMMA3
    | {"final_logit_softcapping": 2.0, "tie_word_embeddings": False, "attention_bias": True, "num_key_value_heads": 6}
    | {"hidden_activation": "silu", "layer_types": [_SLIDING, _FULL, _FULL], "rope_parameters": {_FULL: None}},
}
