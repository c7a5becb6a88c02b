"""GPT, GPT-Neo, GPT-J, CodeGen, GPT-NeoX and GPT-BigCode (StarCoder)."""

from typing import Any

_COMMON = {"vocab_size": 101, "eos_token_id": None}
_GPT = _COMMON | {"model_type": "openai-gpt", "n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 128}
_SUMMARY = {
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
}
_NEO = _COMMON | {
    "model_type": "gpt_neo",
    "hidden_size": 48,
    "num_layers": 4,
    "num_heads": 6,
    "attention_types": [[["global", "local"], 2]],
    "window_size": 5,
    "max_position_embeddings": 128,
}
_J = _GPT | {"model_type": "gptj", "rotary_dim": 4, "n_layer": 2}
_CODEGEN = _GPT | {"model_type": "codegen", "rotary_dim": 4, "n_layer": 2, "n_head": 8}
_NEOX = _COMMON | {
    "model_type": "gpt_neox",
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "intermediate_size": 80,
    "max_position_embeddings": 128,
}
_JAPANESE = _COMMON | {
    "model_type": "gpt_neox_japanese",
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "intermediate_multiple_size": 2,
    "max_position_embeddings": 128,
}
_BIGCODE = _GPT | {"model_type": "gpt_bigcode"}

CASES: dict[str, dict[str, Any]] = {
    "openai-gpt": _GPT,
    "openai-gpt-published-keys": _GPT
    | _SUMMARY
    | {"afn": "gelu", "n_ctx": 128, "n_special": 0, "predict_special_tokens": True, "layer_norm_epsilon": 1e-05}
    | {"task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}, "resid_pdrop": 0.1},
    "openai-gpt-untied": _GPT
    | {"n_embd": 35, "n_head": 5, "vocab_size": 97, "afn": "relu", "tie_word_embeddings": False}
    | {"layer_norm_epsilon": 1e-3},
    "openai-gpt-usual-names": _COMMON
    | {"model_type": "openai-gpt", "hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 5}
    | {"max_position_embeddings": 150, "afn": "swish"},
    "gpt_neo": _NEO,
    "gpt_neo-published-keys": _NEO
    | _SUMMARY
    | {"attention_layers": ["global", "local", "global", "local"], "activation_function": "gelu_new"}
    | {"attention_dropout": 0, "embed_dropout": 0, "resid_dropout": 0, "gradient_checkpointing": False}
    | {"intermediate_size": None, "tokenizer_class": "GPT2Tokenizer"},
    "gpt_neo-mixed-layers": _NEO
    | {"attention_types": [[["local"], 1], [["global", "local", "local"], 1]], "window_size": 3}
    | {"hidden_size": 35, "num_heads": 5, "vocab_size": 97, "intermediate_size": 51, "tie_word_embeddings": False}
    | {"activation_function": "relu"},
    "gpt_neo-usual-names": _COMMON
    | {"model_type": "gpt_neo", "hidden_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4}
    | {"attention_types": [[["global"], 3]], "max_position_embeddings": 128},
    "gpt_neo-layers-at-length": _NEO
    | {"attention_types": None, "attention_layers": ["local", "local", "global", "local"]},
    "gpt_neo-default-layers": _COMMON
    | {"model_type": "gpt_neo", "hidden_size": 16, "num_layers": 24, "num_heads": 2, "window_size": 4}
    | {"max_position_embeddings": 128, "attention_types": None},
    "gptj": _J,
    "gptj-published-keys": _J
    | _SUMMARY
    | {"rotary": True, "scale_attn_weights": True, "n_inner": None, "tie_word_embeddings": False}
    | {"gradient_checkpointing": False, "activation_function": "gelu_new"},
    "gptj-whole-heads": _J
    | {"n_embd": 50, "n_head": 5, "rotary_dim": 10, "n_inner": 51, "vocab_size": 97, "activation_function": "gelu"}
    | {"layer_norm_epsilon": 1e-3, "n_layer": 3},
    "gptj-usual-names": _COMMON
    | {"model_type": "gptj", "hidden_size": 60, "num_hidden_layers": 2, "num_attention_heads": 4, "rotary_dim": 6}
    | {"max_position_embeddings": 128},
    "codegen": _CODEGEN,
    "codegen-published-keys": _CODEGEN
    | _SUMMARY
    | {"n_ctx": 128, "n_inner": None, "scale_attn_weights": True, "tokenizer_class": "GPT2Tokenizer"}
    | {"n_head": 4, "rotary_dim": 8, "n_layer": 3, "tie_word_embeddings": False},
    "codegen-odd-sizes": _CODEGEN
    | {"n_embd": 60, "n_head": 12, "rotary_dim": 2, "n_inner": 51, "vocab_size": 97, "activation_function": "relu"},
    "gpt_neox": _NEOX,
    "gpt_neox-published-keys": _NEOX
    | {"rotary_pct": 0.25, "rotary_emb_base": 10000, "use_parallel_residual": True, "hidden_act": "gelu_fast"}
    | {"attention_probs_dropout_prob": 0, "hidden_dropout_prob": 0, "tie_word_embeddings": False}
    | {"custom_pipelines": {"text-generation": {"impl": "instruct_pipeline.InstructionTextGenerationPipeline"}}},
    "gpt_neox-sequential": _NEOX
    | {"use_parallel_residual": False, "rotary_pct": 1.0, "rotary_emb_base": 500, "tie_word_embeddings": True}
    | {"hidden_size": 30, "num_attention_heads": 5, "vocab_size": 97, "intermediate_size": 51},
    "gpt_neox-no-biases": _NEOX | {"attention_bias": False, "hidden_act": "relu", "num_hidden_layers": 3},
    "gpt_neox-v5": _NEOX
    | {"rope_parameters": {"rope_type": "default", "rope_theta": 900.0, "partial_rotary_factor": 0.5}}
    | {"use_parallel_residual": False, "attention_bias": False},
    "gpt_neox-v4-repeats": _NEOX
    | {"rotary_pct": 0.5, "partial_rotary_factor": 0.5, "rotary_emb_base": 900, "rope_theta": 900}
    | {"rope_scaling": {"type": "linear", "factor": 2.5}},
    "gpt_neox-yarn": _NEOX
    | {"rotary_pct": 0.75, "num_attention_heads": 3}
    | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}},
    "gpt_neox_japanese": _JAPANESE,
    "gpt_neox_japanese-published-keys": _JAPANESE
    | {"rotary_pct": 1.0, "rotary_emb_base": 10000, "hidden_act": "gelu", "hidden_dropout": 0.0},
    "gpt_neox_japanese-untied": _JAPANESE
    | {"tie_word_embeddings": False, "rotary_pct": 0.5, "rotary_emb_base": 900, "num_hidden_layers": 1}
    | {"hidden_size": 40, "num_attention_heads": 5, "vocab_size": 97, "hidden_act": "relu"},
    "gpt_bigcode": _BIGCODE,
    "gpt_bigcode-published-keys": _BIGCODE
    | _SUMMARY
    | {"activation_function": "gelu", "attention_softmax_in_fp32": True, "scale_attention_softmax_in_fp32": True}
    | {"inference_runner": 0, "max_batch_size": None, "max_sequence_length": None, "pad_key_length": True}
    | {"pre_allocate_kv_cache": False, "validate_runner_input": True, "n_inner": 96, "num_key_value_heads": 1}
    | {"multi_query": True, "scale_attn_weights": True},
    "gpt_bigcode-every-head": _BIGCODE
    | {"multi_query": False, "n_embd": 35, "n_head": 5, "vocab_size": 97, "n_inner": 51, "tie_word_embeddings": False},
    "gpt_bigcode-unscaled": _BIGCODE
    | {"scale_attn_weights": False, "attention_softmax_in_fp32": False, "activation_function": "gelu_pytorch_tanh"}
    | {"n_embd": 35, "n_head": 5},
}
