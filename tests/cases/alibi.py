"""BLOOM, MPT, and Falcon, which has ALiBi in its first form."""

from typing import Any

_BLOOM = {
    "model_type": "bloom",
    "vocab_size": 101,
    "hidden_size": 48,
    "n_layer": 2,
    "n_head": 8,
    "eos_token_id": None,
}
_MPT = {
    "model_type": "mpt",
    "vocab_size": 101,
    "d_model": 48,
    "n_layers": 2,
    "n_heads": 8,
    "max_seq_len": 128,
    "eos_token_id": None,
}
_FALCON = {
    "model_type": "falcon",
    "vocab_size": 101,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "max_position_embeddings": 128,
    "eos_token_id": None,
}
_RW = _FALCON | {"alibi": True, "bias": True, "multi_query": False, "parallel_attn": False}
_NEW = _FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2}

CASES: dict[str, dict[str, Any]] = {
    "bloom": _BLOOM,
    "bloom-odd-untied": _BLOOM
    | {"vocab_size": 97, "hidden_size": 35, "n_head": 5, "n_layer": 3, "tie_word_embeddings": False}
    | {"layer_norm_epsilon": 1e-3},
    "bloom-many-heads": _BLOOM | {"hidden_size": 60, "n_head": 20, "slow_but_exact": True},
    "bloom-published-keys": {
        "model_type": "bloom",
        "vocab_size": 101,
        "n_embed": 48,
        "n_layer": 2,
        "num_attention_heads": 6,
        "apply_residual_connection_post_layernorm": False,
        "attention_softmax_in_fp32": True,
        "bias_dropout_fusion": True,
        "masked_softmax_fusion": True,
        "n_inner": None,
        "offset_alibi": 100,
        "pretraining_tp": 2,
        "seq_length": 2048,
        "skip_bias_add": True,
        "skip_bias_add_qkv": False,
        "slow_but_exact": False,
        "unk_token_id": 0,
        "eos_token_id": None,
    },
    "mpt": _MPT,
    "mpt-odd-untied": _MPT
    | {"vocab_size": 97, "d_model": 35, "n_heads": 5, "n_layers": 3, "tie_word_embeddings": False},
    "mpt-clipped": _MPT | {"attn_config": {"clip_qkv": 0.9, "softmax_scale": 0.7}, "n_heads": 12},
    "mpt-published-keys": _MPT
    | {"emb_pdrop": 0, "embedding_fraction": 1.0, "expansion_ratio": 4, "init_device": "cpu", "learned_pos_emb": True}
    | {"logit_scale": None, "no_bias": True, "norm_type": "low_precision_layernorm", "resid_pdrop": 0, "verbose": 0}
    | {"tokenizer_name": "EleutherAI/gpt-neox-20b", "init_config": {"name": "kaiming_normal_", "init_gain": 0}}
    | {
        "attn_config": {"alibi": True, "alibi_bias_max": 8, "attn_impl": "torch", "attn_pdrop": 0}
        | {"attn_type": "multihead_attention", "attn_uses_sequence_id": False, "clip_qkv": None, "prefix_lm": False}
        | {"qk_ln": False, "softmax_scale": None, "model_type": "", "num_beams": 1, "tie_word_embeddings": True}
    },
    "falcon": _FALCON,
    "falcon-multi-head": _FALCON | {"multi_query": False, "bias": True, "activation": "relu", "num_hidden_layers": 3},
    "falcon-7b-published-keys": _FALCON
    | {"alibi": False, "apply_residual_connection_post_layernorm": False, "attention_dropout": 0.0, "bias": False}
    | {"hidden_dropout": 0.0, "layer_norm_epsilon": 1e-5, "multi_query": True, "new_decoder_architecture": False}
    | {"num_kv_heads": 6, "parallel_attn": True, "rope_scaling": None, "rope_theta": 5000.0},
    "falcon-sequential": _FALCON | {"parallel_attn": False, "ffn_hidden_size": 70, "layer_norm_epsilon": 1e-3},
    "falcon-rw": _RW,
    "falcon-rw-odd-untied": _RW
    | {"vocab_size": 97, "hidden_size": 50, "num_attention_heads": 5, "tie_word_embeddings": False},
    "falcon-rw-multi-query": _RW | {"multi_query": True, "parallel_attn": True, "bias": False},
    "falcon-40b": _NEW,
    "falcon-40b-odd": _NEW
    | {"vocab_size": 97, "hidden_size": 50, "num_attention_heads": 5, "num_kv_heads": 1, "bias": True},
    "falcon-40b-ungrouped-alibi": _NEW | {"num_kv_heads": None, "alibi": True},
    "falcon-11b": _NEW
    | {"num_ln_in_parallel_attn": 1, "ffn_hidden_size": 96, "tie_word_embeddings": False, "ff_factor": 4}
    | {"rope_theta": 500042.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
}
