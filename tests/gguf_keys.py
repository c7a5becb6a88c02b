"""The metadata that llama.cpp's converter writes for a config of Hugging Face's, family by family."""

import math
from collections.abc import Callable
from typing import Any

from gguf import GGUFWriter, RopeScalingType

Config = dict[str, Any]


def find(config: Config, *names: str) -> Any:
    return next((config[name] for name in names if config.get(name) is not None), None)


def metadata(writer: GGUFWriter, config: Config) -> None:
    """What `TextModel.set_gguf_parameters` writes, and the keys of the families with a method of their own."""
    rope = config.get("rope_parameters") or {}
    full, sliding = rope.get("full_attention", rope), rope.get("sliding_attention", {})
    dim = find(config, "hidden_size", "n_embd", "d_model")
    kind, hidden = config["model_type"], find(config, "intermediate_size", "n_inner")
    given: dict[Callable[..., Any], Any] = {
        writer.add_context_length: find(config, "max_position_embeddings", "n_positions", "max_seq_len", "seq_length"),
        writer.add_embedding_length: dim,
        writer.add_block_count: find(config, "num_hidden_layers", "n_layer", "n_layers"),
        writer.add_feed_forward_length: hidden or 4 * dim,
        writer.add_head_count: find(config, "num_attention_heads", "n_head", "n_heads"),
        writer.add_head_count_kv: 1 if kind == "gpt_bigcode" else find(config, "num_key_value_heads"),
        writer.add_layer_norm_rms_eps: config.get("rms_norm_eps"),
        writer.add_layer_norm_eps: find(config, "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"),
        writer.add_key_length: config.get("head_dim"),
        writer.add_value_length: config.get("head_dim"),
        writer.add_expert_count: find(config, "num_local_experts", "num_experts"),
        writer.add_expert_used_count: config.get("num_experts_per_tok"),
        writer.add_rope_freq_base_swa: sliding.get("rope_theta"),
    }
    if kind not in ("phi", "gpt_neox", "stablelm", "falcon", "gemma", "gemma2"):  # the converter leaves it to 10000
        given[writer.add_rope_freq_base] = full.get("rope_theta")
    for add, value in given.items():
        if value is not None:
            add(value)
    scaling(writer, full)
    if own := OWN.get(kind):
        own(writer, config, full)


def scaling(writer: GGUFWriter, rope: Config) -> None:
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif rope.get("rope_type") == "yarn":
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        for key, add in (
            ("attention_factor", writer.add_rope_scaling_yarn_attn_factor),
            ("beta_fast", writer.add_rope_scaling_yarn_beta_fast),
            ("beta_slow", writer.add_rope_scaling_yarn_beta_slow),
        ):
            if rope.get(key) is not None:
                add(rope[key])


def rotary_part(writer: GGUFWriter, config: Config, rope: Config) -> None:
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_rope_dimension_count(int(rope.get("partial_rotary_factor", 1.0) * head_dim))


def llama(writer: GGUFWriter, config: Config, rope: Config) -> None:
    rotary_part(writer, config, rope)
    writer.add_vocab_size(config["vocab_size"])


def granite(writer: GGUFWriter, config: Config, rope: Config) -> None:
    llama(writer, config, rope)
    writer.add_attention_scale(config["attention_multiplier"])
    writer.add_embedding_scale(config["embedding_multiplier"])
    writer.add_residual_scale(config["residual_multiplier"])
    writer.add_logit_scale(config["logits_scaling"])


def olmo(writer: GGUFWriter, config: Config, rope: Config) -> None:
    writer.add_layer_norm_eps(1e-5)
    if config.get("clip_qkv") is not None:
        writer.add_clamp_kqv(config["clip_qkv"])


def cohere(writer: GGUFWriter, config: Config, rope: Config) -> None:
    writer.add_logit_scale(config["logit_scale"])
    writer.add_rope_scaling_type(RopeScalingType.NONE)


def experts(writer: GGUFWriter, config: Config, rope: Config) -> None:
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    if "shared_expert_intermediate_size" in config:
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])


def gemma(writer: GGUFWriter, config: Config, rope: Config) -> None:
    writer.add_sliding_window(config["sliding_window"])
    if config["attn_logit_softcapping"]:
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
    if config["final_logit_softcapping"]:
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])


def phi3(writer: GGUFWriter, config: Config, rope: Config) -> None:
    rotary_part(writer, config, rope)
    original = config["original_max_position_embeddings"]
    writer.add_rope_scaling_orig_ctx_len(original)
    writer.add_sliding_window(config["sliding_window"] or 0)
    if rope["rope_type"] == "longrope":
        ratio = config["max_position_embeddings"] / original
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(ratio) / math.log(original)))


def parallel(writer: GGUFWriter, config: Config, rope: Config) -> None:
    rotary_part(writer, config, rope)
    writer.add_parallel_residual(config["use_parallel_residual"])


def falcon(writer: GGUFWriter, config: Config, rope: Config) -> None:
    writer.add_tensor_data_layout("jploski")
    new, multi = config["new_decoder_architecture"], config["multi_query"]
    writer.add_head_count_kv(config["num_kv_heads"] if new or not multi else 1)


def mpt(writer: GGUFWriter, config: Config, rope: Config) -> None:
    writer.add_max_alibi_bias(config["attn_config"]["alibi_bias_max"])
    if config["attn_config"]["clip_qkv"] is not None:
        writer.add_clamp_kqv(config["attn_config"]["clip_qkv"])


OWN = {
    "llama": llama,
    "mistral": llama,
    "mixtral": llama,
    "granite": granite,
    "olmo": olmo,
    "cohere": cohere,
    "qwen2_moe": experts,
    "qwen3_moe": experts,
    "gemma2": gemma,
    "gemma3_text": gemma,
    "phi": rotary_part,
    "phi3": phi3,
    "gpt_neox": parallel,
    "stablelm": parallel,
    "falcon": falcon,
    "mpt": mpt,
}
