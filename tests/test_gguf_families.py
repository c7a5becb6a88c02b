"""A GGUF file of every family gives Hugging Face's names, bytes and config, and what Transformers reads from it."""

from typing import Any

import numpy as np
import pytest

from conversion.architectures import architecture, names
from conversion.claim import claim
from conversion.convert import translate
from conversion.gguf import present_gguf
from conversion.source import open_source
from jaxllm.models.abstract import abstract
from tests.gguf_files import write_gguf

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
load_file = pytest.importorskip("safetensors.numpy").load_file

pytestmark = pytest.mark.torch
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": None,
}
HEADS = {key: SIZES[key] for key in SIZES if key not in ("num_key_value_heads", "intermediate_size")}
SINGLE = {"num_key_value_heads": 4, "intermediate_size": 128}
GRANITE = {"attention_multiplier": 0.3, "embedding_multiplier": 12.0, "residual_multiplier": 0.2, "logits_scaling": 8.0}
EXPERTS = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 32}
N_SIZES = {"vocab_size": 64, "n_layer": 2, "n_head": 4, "bos_token_id": None, "eos_token_id": None}


def rope(kind: str, theta: float = 10_000.0, **settings: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **settings}}


LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
YARN = {"factor": 4.0, "original_max_position_embeddings": 32}
LONG = {"short_factor": [1.0, 1.05], "long_factor": [1.1, 4.2], "partial_rotary_factor": 0.5}
GEMMA3_SCALED = {
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    }
}
# A model_type and its settings.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", SIZES),
    "llama-biases-tied": ("llama", SIZES | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "llama-head_dim": ("llama", SIZES | {"head_dim": 12}),
    "llama3": ("llama", SIZES | rope("llama3", 500_000.0, factor=8.0, **LLAMA3) | {"head_dim": 16}),
    "llama-linear": ("llama", SIZES | rope("linear", factor=4.0)),
    "llama-yarn": ("llama", SIZES | rope("yarn", **YARN)),
    "llama-yarn-betas": ("llama", SIZES | rope("yarn", **YARN, beta_fast=16.0, beta_slow=2.0, attention_factor=1.5)),
    "mistral": ("mistral", SIZES | {"sliding_window": None, "head_dim": 12}),
    "mixtral": ("mixtral", SIZES | {"num_local_experts": 3, "num_experts_per_tok": 2, "head_dim": 8}),
    "granite": ("granite", SIZES | GRANITE),
    "olmo": ("olmo", SIZES | {"clip_qkv": 8.0}),
    "olmo2": ("olmo2", SIZES),
    "cohere": ("cohere", SIZES | {"logit_scale": 0.25}),
    "cohere-norms": ("cohere", SIZES | {"logit_scale": 0.25, "use_qk_norm": True}),
    "qwen2": ("qwen2", SIZES),
    "qwen2-tied": ("qwen2", SIZES | rope("default", 1e6) | {"tie_word_embeddings": True}),
    "qwen2_moe": ("qwen2_moe", SIZES | EXPERTS | {"shared_expert_intermediate_size": 40}),
    "qwen3": ("qwen3", SIZES | {"head_dim": 16}),
    "qwen3_moe": ("qwen3_moe", SIZES | EXPERTS | {"head_dim": 16, "norm_topk_prob": True}),
    "gemma": ("gemma", SIZES | {"head_dim": 16}),
    "gemma2": ("gemma2", SIZES | GEMMA),
    "gemma3": ("gemma3_text", SIZES | GEMMA | {"num_hidden_layers": 7}),
    "gemma3-scaled": ("gemma3_text", SIZES | GEMMA | GEMMA3_SCALED),
    "phi": ("phi", SIZES | SINGLE | {"partial_rotary_factor": 0.5}),
    "phi3": ("phi3", SIZES | {"sliding_window": 48, "pad_token_id": 0, "original_max_position_embeddings": 128}),
    "phi3-long": (
        "phi3",
        SIZES
        | rope("longrope", **LONG)
        | {"pad_token_id": 0, "original_max_position_embeddings": 32, "tie_word_embeddings": True},
    ),
    "stablelm": ("stablelm", SIZES | {"use_qkv_bias": True, "use_parallel_residual": False}),
    "stablelm-12b": (
        "stablelm",
        SIZES | {"qk_layernorm": True, "use_parallel_residual": True, "partial_rotary_factor": 0.5},
    ),
    "starcoder2": ("starcoder2", SIZES),
    "gpt_neox": ("gpt_neox", HEADS | {"intermediate_size": 56, "rotary_pct": 0.5, "use_parallel_residual": False}),
    "falcon-7b": ("falcon", HEADS),
    "falcon-40b": ("falcon", HEADS | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "gpt2": ("gpt2", N_SIZES | {"n_embd": 32, "n_positions": 64, "n_inner": 128}),
    "gpt_bigcode": ("gpt_bigcode", N_SIZES | {"n_embd": 32, "n_positions": 64, "n_inner": 128}),
    "bloom": ("bloom", N_SIZES | {"hidden_size": 32, "seq_length": 64}),
    "mpt": ("mpt", {"vocab_size": 64, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64}),
}
# What Transformers' own reader of GGUF gets right; it has no Mixtral, and leaves Falcon 40B's and StableLM 12B's order.
THEIRS = {"llama", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "gemma2", "gemma3_text", "phi3", "starcoder2", "gpt2"}
THEIRS |= {"bloom", "stablelm", "falcon"}
BOOKKEEPING = {"dtype", "pad_token_id", "partial_rotary_factor", "hidden_activation", "sliding_window_pattern"}
BOOKKEEPING |= {"num_ln_in_parallel_attn"}  # told from the rest


def tiny(case: str) -> Any:
    """A model of random weights, biases and norms; multiples of 2**-6 that come back whole from less and more one."""
    kind, settings = CASES[case]
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(kind, **settings))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
        parameter.data = (parameter.data * 64).round() / 64
    return model


def told(config: Any) -> dict[str, Any]:
    return {key: value for key, value in config.to_dict().items() if key not in BOOKKEEPING}


@pytest.mark.parametrize("case", CASES)
def test_families(tmp_path, case):
    model = tiny(case)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    config, found, _ = present_gguf(write_gguf(tmp_path / "m.gguf", model.config.to_dict(), tensors))
    assert found.keys() == tensors.keys()
    for name, tensor in found.items():
        array = tensor.read()
        assert (array.shape, array.dtype) == (tensor.shape, tensor.dtype)
        np.testing.assert_array_equal(array, tensors[name], strict=True)
    if case == "mistral":  # in GGUF a Llama, which it is without a window
        config |= {"model_type": "mistral", "sliding_window": None}
        del config["attention_bias"], config["mlp_bias"]
    config |= {"architectures": [architecture(config["model_type"]).class_name]}  # as an export adds
    assert told(transformers.AutoConfig.for_model(**config)) == told(model.config)


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][0] in names()])
def test_converted_the_same(tmp_path, case):
    """Our config and parameters from a GGUF file are those from Hugging Face's files of the same model."""
    model = tiny(case)
    model.save_pretrained(tmp_path / "hf")
    path = write_gguf(tmp_path / "m.gguf", model.config.to_dict(), load_file(tmp_path / "hf" / "model.safetensors"))
    theirs, ours = (translate(open_source(source)) for source in (tmp_path / "hf", path))
    assert ours.config == theirs.config
    arrays = [list(claim(one.table, abstract(one.config), one.source.tensors)) for one in (theirs, ours)]
    for their, our in zip(*arrays, strict=True):
        assert their.name == our.name
        np.testing.assert_array_equal(their.read()[:], our.read()[:], strict=True)


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][0] in THEIRS and case != "falcon-40b"])
def test_transformers_reads_the_same(tmp_path, case):
    model = tiny(case)
    model.save_pretrained(tmp_path)
    path = write_gguf(tmp_path / "m.gguf", model.config.to_dict(), load_file(tmp_path / "model.safetensors"))
    reader = pytest.importorskip("transformers.modeling_gguf_pytorch_utils")
    theirs = reader.load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    ours = present_gguf(path).tensors
    same = theirs.keys() & ours.keys()
    assert len(same) > 10
    for name in same:
        np.testing.assert_array_equal(theirs[name].numpy(), ours[name].read())
