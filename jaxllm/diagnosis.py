"""What `jaxllm doctor` says: versions, devices, caches and choices of this installation."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.kernels.attention import choose
from jaxllm.kernels.inputs import Scores
from jaxllm.kernels.request import Request
from jaxllm.kernels.target import target
from jaxllm.storage import cache_dir
from jaxllm.version import __version__

PACKAGES = ("jax", "jaxlib", "flax", "orbax-checkpoint", "safetensors", "tokenizers", "torch", "transformers")

_LLAMA = {"batch": 1, "heads": 32, "kv_heads": 8, "head_dim": 128, "value_dim": 128, "dtype": jnp.dtype(jnp.bfloat16)}
CALLS = {
    "prefill of 4096": Request(queries=4096, keys=4096, scores=Scores(1.0), offsets=False, **_LLAMA),
    "decode at 4096": Request(queries=1, keys=4096, scores=Scores(1.0), **_LLAMA),
}


def diagnose() -> dict[str, dict[str, Any]]:
    """Sections of named facts, all of them plain JSON values."""
    aimed = target()
    attention = {call: choose(request, aimed.device, aimed.proven) for call, request in CALLS.items()}
    return {
        "versions": {
            "jaxllm": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
        },
        "devices": {str(device): _device(device) for device in jax.devices()},
        "settings": {"backend": jax.default_backend(), "default float": str(jnp.result_type(float))},
        "caches": {name: _size(cache_dir() / name) for name in ("checkpoints", "compiled")},
        "attention": {call: f"{name}: {reason}" for call, (name, reason) in attention.items()},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _device(device: Any) -> str:
    try:
        limit = (device.memory_stats() or {}).get("bytes_limit")
    except jax.errors.JaxRuntimeError:
        limit = None
    return device.device_kind + (f", {limit / 2**30:.1f} GiB" if limit else "")


def _size(directory: Path) -> str:
    files = [file for file in directory.rglob("*") if file.is_file()]
    return f"{directory}: {sum(file.stat().st_size for file in files) / 1e6:.1f} MB in {len(files)} files"
