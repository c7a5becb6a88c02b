"""Hugging Face's names for the tensors of a GGUF file, architecture by architecture.

A line has the name of a module in Hugging Face, its name in the file, a key of `transforms.CHANGES` if the weights must
be changed, and `optional` if a model may lack the module. A module has a `.weight`, and a `.bias` if the file has one.
A name that begins with a dot belongs to a layer. `{e}` runs over experts or heads, which the file stores in one tensor.
The names in files are those of `gguf.constants.TENSOR_NAMES`.
"""

from typing import NamedTuple

from conversion.gguf.transforms import CHANGES


class GGUFRow(NamedTuple):
    """One module: Hugging Face's name, the name in the file, a key of `CHANGES`, and whether a model may lack it."""

    target: str
    source: str
    change: str
    optional: bool


def rows(stem: str, *texts: str) -> tuple[GGUFRow, ...]:
    """Parses the lines of a table; `stem` is the prefix of Hugging Face's names in layers."""
    result = []
    for line in filter(str.strip, "\n".join(texts).splitlines()):
        name, own, *rest = line.split()
        optional = "optional" in rest
        change = next((word for word in rest if word != "optional"), "")
        assert change in CHANGES, line
        layered = name.startswith(".")
        result.append(
            GGUFRow(stem + name if layered else name, f"blk.{{i}}.{own}" if layered else own, change, optional)
        )
    return tuple(result)


_MODEL = "model.layers.{i}"
_ENDS = """
    model.embed_tokens token_embd
    model.norm output_norm
    lm_head output optional
"""
_GATED = """
    .mlp.gate_proj ffn_gate
    .mlp.up_proj ffn_up
    .mlp.down_proj ffn_down
"""
_PRE_NORMS = """
    .input_layernorm attn_norm
    .post_attention_layernorm ffn_norm
"""
_ATTENTION = """
    .self_attn.q_proj attn_q
    .self_attn.k_proj attn_k
    .self_attn.v_proj attn_v
    .self_attn.o_proj attn_output
"""
_UNROTATED = """
    .self_attn.q_proj attn_q unrotate-heads
    .self_attn.k_proj attn_k unrotate-kv_heads
    .self_attn.v_proj attn_v
    .self_attn.o_proj attn_output
"""
_QK_NORMS = """
    .self_attn.q_norm attn_q_norm
    .self_attn.k_norm attn_k_norm
"""
_MIXTRAL = """
    .block_sparse_moe.gate ffn_gate_inp
    .block_sparse_moe.experts.{e}.w1 ffn_gate_exps each-expert
    .block_sparse_moe.experts.{e}.w2 ffn_down_exps each-expert
    .block_sparse_moe.experts.{e}.w3 ffn_up_exps each-expert
"""
_EXPERTS = """
    .mlp.gate ffn_gate_inp
    .mlp.experts.{e}.gate_proj ffn_gate_exps each-expert
    .mlp.experts.{e}.up_proj ffn_up_exps each-expert
    .mlp.experts.{e}.down_proj ffn_down_exps each-expert
"""
_SHARED_EXPERT = """
    .mlp.shared_expert_gate ffn_gate_inp_shexp one-row
    .mlp.shared_expert.gate_proj ffn_gate_shexp
    .mlp.shared_expert.up_proj ffn_up_shexp
    .mlp.shared_expert.down_proj ffn_down_shexp
"""
_GEMMA_ENDS = """
    model.embed_tokens token_embd
    model.norm output_norm less-one
    lm_head output optional
"""
_GEMMA_NORMS = """
    .input_layernorm attn_norm less-one
    .post_attention_layernorm post_attention_norm less-one
    .pre_feedforward_layernorm ffn_norm less-one
    .post_feedforward_layernorm post_ffw_norm less-one
"""

LLAMA = rows(_MODEL, _ENDS, _PRE_NORMS, _UNROTATED, _GATED)
MIXTRAL = rows(_MODEL, _ENDS, _PRE_NORMS, _UNROTATED, _MIXTRAL)
OLMO = rows(_MODEL, _ENDS.replace("model.norm output_norm", ""), _UNROTATED, _GATED)
QWEN2 = rows(_MODEL, _ENDS, _PRE_NORMS, _ATTENTION, _GATED)
QWEN2_MOE = rows(_MODEL, _ENDS, _PRE_NORMS, _ATTENTION, _EXPERTS, _SHARED_EXPERT)
QWEN3 = rows(_MODEL, _ENDS, _PRE_NORMS, _ATTENTION, _QK_NORMS, _GATED)
QWEN3_MOE = rows(_MODEL, _ENDS, _PRE_NORMS, _ATTENTION, _QK_NORMS, _EXPERTS)
_OLMO2_NORMS = """
    .post_attention_layernorm post_attention_norm
    .post_feedforward_layernorm post_ffw_norm
"""
OLMO2 = rows(_MODEL, _ENDS, _ATTENTION, _QK_NORMS, _GATED, _OLMO2_NORMS)
_COHERE_NORMS = """
    .input_layernorm attn_norm
    .self_attn.q_norm attn_q_norm optional
    .self_attn.k_norm attn_k_norm optional
"""
COHERE = rows(_MODEL, _ENDS, _ATTENTION, _GATED, _COHERE_NORMS)
_GEMMA1_NORMS = """
    .input_layernorm attn_norm less-one
    .post_attention_layernorm ffn_norm less-one
"""
GEMMA = rows(_MODEL, _GEMMA_ENDS, _ATTENTION, _GATED, _GEMMA1_NORMS)
GEMMA2 = rows(_MODEL, _GEMMA_ENDS, _GEMMA_NORMS, _ATTENTION, _GATED)
_GEMMA_QK_NORMS = """
    .self_attn.q_norm attn_q_norm less-one
    .self_attn.k_norm attn_k_norm less-one
"""
GEMMA3 = GEMMA2 + rows(_MODEL, _GEMMA_QK_NORMS)
_PHI = """
    model.embed_tokens token_embd
    model.final_layernorm output_norm
    lm_head output
    .input_layernorm attn_norm
    .self_attn.q_proj attn_q
    .self_attn.k_proj attn_k
    .self_attn.v_proj attn_v
    .self_attn.dense attn_output
    .mlp.fc1 ffn_up
    .mlp.fc2 ffn_down
"""
PHI = rows(_MODEL, _PHI)
_PHI3 = """
    .self_attn.qkv_proj attn_qkv
    .self_attn.o_proj attn_output
    .mlp.gate_up_proj ffn_up
    .mlp.down_proj ffn_down
"""
PHI3 = rows(_MODEL, _ENDS, _PRE_NORMS, _PHI3)
_STARCODER2 = """
    .mlp.c_fc ffn_up
    .mlp.c_proj ffn_down
"""
STARCODER2 = rows(_MODEL, _ENDS, _PRE_NORMS, _ATTENTION, _STARCODER2)
_STABLELM_NORMS = """
    .input_layernorm attn_norm
    .post_attention_layernorm ffn_norm optional
    .self_attn.q_layernorm.norms.{e} attn_q_norm each-head optional
    .self_attn.k_layernorm.norms.{e} attn_k_norm each-kv_head optional
"""
STABLELM = rows(_MODEL, _ENDS, _ATTENTION, _GATED, _STABLELM_NORMS)
_GPT2 = """
    transformer.wte token_embd
    transformer.wpe position_embd
    transformer.ln_f output_norm
    lm_head output optional
    .ln_1 attn_norm
    .attn.c_attn attn_qkv transpose
    .attn.c_proj attn_output transpose
    .ln_2 ffn_norm
    .mlp.c_fc ffn_up transpose
    .mlp.c_proj ffn_down transpose
"""
GPT2 = rows("transformer.h.{i}", _GPT2)
GPT_BIGCODE = rows("transformer.h.{i}", _GPT2.replace(" transpose", ""))
_GPT_NEOX = """
    gpt_neox.embed_in token_embd
    gpt_neox.final_layer_norm output_norm
    embed_out output optional
    .input_layernorm attn_norm
    .post_attention_layernorm ffn_norm
    .attention.query_key_value attn_qkv interleave
    .attention.dense attn_output
    .mlp.dense_h_to_4h ffn_up
    .mlp.dense_4h_to_h ffn_down
"""
GPT_NEOX = rows("gpt_neox.layers.{i}", _GPT_NEOX)
_BLOOM = """
    transformer.word_embeddings token_embd
    transformer.word_embeddings_layernorm token_embd_norm
    transformer.ln_f output_norm
    lm_head output optional
    .input_layernorm attn_norm
    .post_attention_layernorm ffn_norm
    .self_attention.query_key_value attn_qkv interleave
    .self_attention.dense attn_output
    .mlp.dense_h_to_4h ffn_up
    .mlp.dense_4h_to_h ffn_down
"""
BLOOM = rows("transformer.h.{i}", _BLOOM)
_FALCON = """
    transformer.word_embeddings token_embd
    transformer.ln_f output_norm
    lm_head output optional
    .self_attention.query_key_value attn_qkv group
    .self_attention.dense attn_output
    .mlp.dense_h_to_4h ffn_up
    .mlp.dense_4h_to_h ffn_down
"""
FALCON = rows("transformer.h.{i}", _FALCON, ".input_layernorm attn_norm")
FALCON_40B = rows("transformer.h.{i}", _FALCON, ".ln_attn attn_norm_2\n.ln_mlp attn_norm")
_MPT = """
    transformer.wte token_embd
    transformer.norm_f output_norm
    lm_head output optional
    .norm_1 attn_norm
    .attn.Wqkv attn_qkv
    .attn.out_proj attn_output
    .norm_2 ffn_norm
    .ffn.up_proj ffn_up
    .ffn.down_proj ffn_down
"""
MPT = rows("transformer.blocks.{i}", _MPT)
