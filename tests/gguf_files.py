"""GGUF files as llama.cpp's converter writes them, from Hugging Face's configs and tensors.

Names come from the `gguf` package's own map; metadata and what is done to weights follow the files of `conversion/` in
github.com/ggml-org/llama.cpp, family by family.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter, get_tensor_name_map
from gguf.quants import quantize

from tests.gguf_keys import Config, find, metadata

ARCHITECTURES = {
    "llama": "LLAMA",
    "mistral": "LLAMA",
    "mixtral": "LLAMA",
    "granite": "GRANITE",
    "olmo": "OLMO",
    "olmo2": "OLMO2",
    "cohere": "COMMAND_R",
    "qwen2": "QWEN2",
    "qwen2_moe": "QWEN2MOE",
    "qwen3": "QWEN3",
    "qwen3_moe": "QWEN3MOE",
    "gemma": "GEMMA",
    "gemma2": "GEMMA2",
    "gemma3_text": "GEMMA3",
    "phi": "PHI2",
    "phi3": "PHI3",
    "stablelm": "STABLELM",
    "starcoder2": "STARCODER2",
    "gpt_neox": "GPTNEOX",
    "falcon": "FALCON",
    "gpt2": "GPT2",
    "gpt_bigcode": "STARCODER",
    "bloom": "BLOOM",
    "mpt": "MPT",
}
PERMUTED = ("llama", "mistral", "mixtral", "granite", "olmo")

Tensors = dict[str, np.ndarray]


def permute(weights: np.ndarray, heads: int) -> np.ndarray:
    cut = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return cut.swapaxes(1, 2).reshape(weights.shape)


def modified(name: str, weight: np.ndarray, config: Config) -> np.ndarray:
    """The `modify_tensors` of all families."""
    kind, heads = config["model_type"], find(config, "num_attention_heads", "n_head", "n_heads")
    if kind in PERMUTED and ".q_proj." in name:
        return permute(weight, heads)
    if kind in PERMUTED and ".k_proj." in name:
        return permute(weight, config["num_key_value_heads"])
    if kind.startswith("gemma") and name.endswith("norm.weight"):
        return weight.astype(np.float32) + 1
    if kind == "gpt2" and name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")):
        return weight.T
    if kind in ("bloom", "gpt_neox") and "query_key_value" in name:
        cut = weight.reshape(heads, 3, -1, *weight.shape[1:])
        return np.concatenate([cut[:, i].reshape(-1, *weight.shape[1:]) for i in range(3)])
    if name.endswith("shared_expert_gate.weight"):
        return weight.squeeze(0)  # as in published files
    if kind == "falcon" and "query_key_value" in name:
        groups = config["num_kv_heads"] if config["new_decoder_architecture"] else 1
        cut = weight.reshape(groups, heads // groups + 2, -1, weight.shape[1])
        parts = (cut[:, :-2], cut[:, [-2]], cut[:, [-1]])
        return np.concatenate([part.reshape(-1, weight.shape[1]) for part in parts])
    return weight


def stacked(tensors: Mapping[str, np.ndarray]) -> Tensors:
    """Experts and the norms of heads, `X.0.Y`, `X.1.Y`, ... as one `X.Y`."""
    result: Tensors = {}
    pattern = re.compile(r"(.*\.(?:experts|norms))\.(\d+)\.(.*)")
    numbered = {name: found for name in tensors if (found := pattern.fullmatch(name))}
    for found in numbered.values():
        count = sum(other[1] == found[1] and other[3] == found[3] for other in numbered.values())
        if found[2] == "0":
            parts = [tensors[f"{found[1]}.{i}.{found[3]}"] for i in range(count)]
            merged = f"{found[1]}.{found[3]}".replace("block_sparse_moe.experts", "feed_forward.experts")
            merged = merged.removeprefix("model.") if "feed_forward" in merged else merged.replace(".norms", "")
            result[merged] = np.stack(parts)
    return result | {name: tensor for name, tensor in tensors.items() if name not in numbered}


def factors(config: Config) -> Tensors:
    """The constants of scaled rotary positions that are written as tensors."""
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type") == "longrope":
        return {f"rope_factors_{name}": np.array(rope[f"{name}_factor"], np.float32) for name in ("long", "short")}
    if rope.get("rope_type") != "llama3":
        return {}
    dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    low, high, length = rope["low_freq_factor"], rope["high_freq_factor"], 8192
    values = []
    for wave in 2 * np.pi * rope["rope_theta"] ** (np.arange(0, dim, 2) / dim):
        smooth = (length / wave - low) / (high - low)
        inner = 1 / ((1 - smooth) / rope["factor"] + smooth)
        values.append(1 if wave < length / high else rope["factor"] if wave > length / low else inner)
    return {"rope_freqs": np.array(values, np.float32)}


def write_gguf(
    path: Path,
    config: Config,
    tensors: Mapping[str, np.ndarray],
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    more: Callable[[GGUFWriter], Any] = lambda writer: None,
) -> Path:
    """A file with the matrices in the given type and, as always, vectors in float32; `more` adds what it likes."""
    arch = MODEL_ARCH[ARCHITECTURES[config["model_type"]]]
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, {MODEL_ARCH.COMMAND_R: "command-r"}.get(arch, arch.name.lower()))
    writer.add_name("tiny")
    writer.add_file_type(1)
    metadata(writer, config)
    layers = find(config, "num_hidden_layers", "n_layer", "n_layers")
    names = get_tensor_name_map(arch, layers)
    for name, tensor in factors(config).items():
        writer.add_tensor(f"{name}.weight", tensor)
    for name, tensor in stacked({name: modified(name, tensor, config) for name, tensor in tensors.items()}).items():
        tensor = np.ascontiguousarray(tensor.astype(np.float32))
        theirs = name.removeprefix("transformer.") if arch == MODEL_ARCH.BLOOM else name
        own = names.get_name(theirs, try_suffixes=(".weight", ".bias"))
        assert own, name
        stored = GGMLQuantizationType.F32 if tensor.ndim == 1 else kind
        writer.add_tensor(own, quantize(tensor, stored), raw_dtype=stored)
    more(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
