"""Tiny random checkpoints in Hugging Face's layout, written without PyTorch."""

import json
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

from conversion.architectures import architecture
from conversion.binding import bind
from conversion.config_reader import ConfigReader
from jaxllm.models.abstract import abstract
from tests.cases import CASES

# Transformers' own cached and uncached logits differ here: old keys keep the frequencies of their day.
CACHE_CHANGES_LOGITS = {"llama-dynamic-v4"}


def tensors(config: dict[str, Any], seed: int = 0, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """Random weights under Hugging Face's names; norms are not ones and biases not zeros."""
    reader = ConfigReader(config)
    module = architecture(reader.take("model_type"))
    random = np.random.default_rng(seed)
    result = {}
    part = module.from_hf(reader)
    usual = 1.0 - getattr(part.norm, "offset", 0.0)
    for binding in bind(module.table.rows, abstract(part)):
        shape = binding.source_shape
        spread = 0.3 if len(shape) == 1 else 1 / math.sqrt(shape[-1])
        centre = usual if binding.targets[0].endswith("norm.weight") else 0.0
        for name in binding.sources:
            result[name] = (centre + spread * random.standard_normal(shape)).astype(dtype)
    return result


def write(path: Path, config: dict[str, Any], seed: int = 0, dtype: Any = np.float32) -> Path:
    """A checkpoint directory of one safetensors file."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    save_file(tensors(config, seed, dtype), path / "model.safetensors", metadata={"format": "pt"})
    return path


def rewrite(path, change_config=None, change_tensors=None):
    """Edits a checkpoint in place by two functions on its config and its tensors."""
    if change_config:
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(change_config(config) or config))
    if change_tensors:
        tensors = load_file(path / "model.safetensors")
        save_file(change_tensors(tensors) or tensors, path / "model.safetensors")


__all__ = ["BFLOAT16", "CACHE_CHANGES_LOGITS", "CASES", "rewrite", "tensors", "write"]

BFLOAT16 = ml_dtypes.bfloat16
