"""OPT and BioGPT, Phi and Persimmon."""

from typing import Any

_SIZES = {
    "vocab_size": 101,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "max_position_embeddings": 128,
    "eos_token_id": None,
}
_ODD = {"vocab_size": 97, "hidden_size": 35, "num_attention_heads": 5, "num_hidden_layers": 3}
_OPT = _SIZES | {"model_type": "opt", "ffn_dim": 72}
_BIOGPT = _SIZES | {"model_type": "biogpt", "intermediate_size": 72}
_PHI = _SIZES | {"model_type": "phi", "intermediate_size": 72}
_PERSIMMON = _SIZES | {"model_type": "persimmon", "intermediate_size": 72}

CASES: dict[str, dict[str, Any]] = {
    "opt": _OPT,
    "opt-350m": _OPT
    | {"do_layer_norm_before": False, "word_embed_proj_dim": 20, "prefix": "</s>", "activation_dropout": 0.0}
    | {"dropout": 0.1, "init_std": 0.02, "layerdrop": 0.0, "pad_token_id": 1, "torch_dtype": "float16"},
    "opt-odd-untied": _OPT | _ODD | {"tie_word_embeddings": False, "word_embed_proj_dim": 35},
    "opt-galactica": _OPT
    | {"activation_function": "gelu", "enable_bias": False, "layer_norm_elementwise_affine": False}
    | {"_remove_final_layer_norm": False, "learned_embeddings": True, "scale_embeddings": False},
    "opt-bare": _OPT | {"_remove_final_layer_norm": True, "word_embed_proj_dim": 64, "enable_bias": False},
    "biogpt": _BIOGPT,
    "biogpt-odd-untied": _BIOGPT
    | _ODD
    | {"tie_word_embeddings": False, "scale_embedding": False, "hidden_act": "relu", "layer_norm_eps": 1e-12},
    "phi": _PHI,
    "phi-odd-grouped": _PHI
    | _ODD
    | {"hidden_size": 40, "num_key_value_heads": 1, "qk_layernorm": True, "partial_rotary_factor": 0.75}
    | {"hidden_act": "relu", "layer_norm_eps": 1e-3},
    "phi-published-keys": _PHI
    | {"num_key_value_heads": 6, "partial_rotary_factor": 0.3, "qk_layernorm": False, "resid_pdrop": 0.1}
    | {"embd_pdrop": 0.0, "rope_scaling": None, "rope_theta": 500.0, "tie_word_embeddings": False},
    "phi-v5": _PHI
    | {"num_key_value_heads": None, "head_dim": 12, "hidden_act": "gelu"}
    | {"rope_parameters": {"rope_type": "default", "rope_theta": 900.0, "partial_rotary_factor": 0.5}},
    "persimmon": _PERSIMMON,
    "persimmon-odd-tied": _PERSIMMON
    | _ODD
    | {"hidden_size": 50, "tie_word_embeddings": True, "qk_layernorm": False, "partial_rotary_factor": 0.8},
    "persimmon-published-keys": _PERSIMMON
    | {"partial_rotary_factor": 0.5, "rope_theta": 25000.0, "rope_scaling": None, "hidden_dropout": 0.0}
    | {"qk_layernorm": True, "layer_norm_eps": 1e-3, "hidden_act": "relu2"},
}
