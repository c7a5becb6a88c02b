"""GPT-2, Llama and Mistral."""

from typing import Any

_LLAMA = {
    "model_type": "llama",
    "vocab_size": 101,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "eos_token_id": None,
}
_MISTRAL = _LLAMA | {"model_type": "mistral", "sliding_window": 5, "num_hidden_layers": 3}
_GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 101,
    "n_embd": 48,
    "n_layer": 3,
    "n_head": 6,
    "n_positions": 128,
    "eos_token_id": None,
}
_LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}

CASES: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "llama-biases-tied": _LLAMA
    | {"num_key_value_heads": 6, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}
    | {"hidden_act": "gelu", "num_hidden_layers": 3},
    "llama-odd-sizes": _LLAMA
    | {"hidden_size": 35, "intermediate_size": 51, "num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 10},
    "llama-linear-v4": _LLAMA | {"rope_theta": 5000.0, "rope_scaling": {"type": "linear", "factor": 2.5}},
    "llama-dynamic-v4": _LLAMA | {"max_position_embeddings": 11, "rope_scaling": {"type": "dynamic", "factor": 9.0}},
    "llama-yarn": _LLAMA
    | {
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 32,
            "rope_theta": 900.0,
        }
    },
    "llama-yarn-mscale-v4": _LLAMA
    | {
        "rope_theta": 5000,
        "rope_scaling": {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 32}
        | {"mscale": 0.7, "mscale_all_dim": 1.3, "beta_fast": 20, "beta_slow": 2, "truncate": False},
    },
    "llama-llama3": _LLAMA
    | {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500.0, **_LLAMA3}, "head_dim": 16},
    "llama-llama3-v4": _LLAMA | {"rope_theta": 50000.0, "rope_scaling": {"rope_type": "llama3", **_LLAMA3}},
    "llama-published-keys": _LLAMA
    | {
        "max_sequence_length": 128,
        "pretraining_tp": 1,
        "torch_dtype": "float16",
        "unsloth_fixed": True,
        "head_dim": None,
    }
    | {"rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 2}, "partial_rotary_factor": 1.0}
    | {
        "rope_parameters": {"rope_type": "linear", "factor": 2, "rope_theta": 10000},
        "_num_labels": 1,
        "is_llama_config": True,
    },
    "mistral": _MISTRAL,
    "mistral-full": _MISTRAL
    | {"attention_bias": False, "rope_interleaved": False}
    | {"sliding_window": None, "head_dim": 12, "rope_theta": 1e6, "hidden_size": 40, "num_attention_heads": 4},
    "gpt2": _GPT2,
    "gpt2-published-keys": _GPT2
    | {"n_special": 0, "predict_special_tokens": True, "output_past": True, "n_ctx": 128, "summary_type": "cls_index"}
    | {"summary_activation": None, "task_specific_params": {"text-generation": {"do_sample": True}}},
    "gpt2-untied": _GPT2 | {"tie_word_embeddings": False, "n_inner": 70, "activation_function": "relu"},
    "gpt2-scales": _GPT2
    | {
        "scale_attn_by_inverse_layer_idx": True,
        "scale_attn_weights": False,
        "n_embd": 35,
        "n_head": 5,
        "vocab_size": 97,
    },
}
