"""The contents of `jaxllm doctor`: versions, devices, caches, selected kernels, and the comparison of kernels."""

import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.kernels.attention import KERNELS, XLA, Kernel, select_kernel
from jaxllm.kernels.call import AttentionCall, Device
from jaxllm.kernels.cases import CASES, Case
from jaxllm.kernels.comparison import Comparison, compare_cases, supported_cases
from jaxllm.kernels.isolation import SubprocessError, run_in_subprocess
from jaxllm.kernels.spec import AttentionSpec
from jaxllm.kernels.target import save_validated, target, target_of
from jaxllm.paths import cache_dir
from jaxllm.version import __version__

PACKAGES = ("jax", "jaxlib", "flax", "orbax-checkpoint", "safetensors", "tokenizers", "torch", "transformers")
LIMIT = 120.0  # seconds for one comparison, including start-up and compilation

_PROMPT = AttentionCall(1, 2048, 2048, 32, 8, 128, 128, jnp.dtype(jnp.bfloat16), AttentionSpec(1.0), has_offsets=False)
_STEP = replace(_PROMPT, queries=1, keys=8192, has_offsets=True)
_GEMMA = {"heads": 16, "head_dim": 256, "value_dim": 256, "spec": AttentionSpec(1.0, softcap=50.0)}
_WINDOW = {"spec": AttentionSpec(1.0, window=4096)}
_LATENT = {"heads": 128, "kv_heads": 128, "head_dim": 192}
_ABSORBED = {
    "heads": 128,
    "kv_heads": 1,
    "head_dim": 576,
    "value_dim": 512,
    "spec": AttentionSpec(1.0, value_dim=512),
}
CALLS = {
    "Llama 3 8B, a prompt": _PROMPT,
    "Llama 3 8B, the rest of a prompt": replace(_PROMPT, keys=8192, has_offsets=True),
    "Llama 3 8B, decoding": _STEP,
    "Mistral 7B, a prompt": replace(_PROMPT, **_WINDOW),
    "Mistral 7B, the rest of a prompt": replace(_PROMPT, keys=4096 + 2048, has_offsets=True, **_WINDOW),
    "Mistral 7B, decoding": replace(_STEP, keys=4096, has_offsets=False, spec=AttentionSpec(1.0, causal=False)),
    "Gemma 2 9B, a prompt": replace(_PROMPT, **_GEMMA),
    "Gemma 2 9B, decoding": replace(_STEP, **_GEMMA),
    "DeepSeek V3, a prompt": replace(_PROMPT, **_LATENT),
    "DeepSeek V3, decoding": replace(_STEP, shared_value=True, **_ABSORBED),
}


def diagnose() -> dict[str, dict[str, Any]]:
    """Returns sections of named facts as JSON values."""
    aimed = target()
    attention = {call: select_kernel(request, aimed.device, aimed.validated) for call, request in CALLS.items()}
    return {
        "versions": {
            "jaxllm": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
        },
        "devices": {str(device): _device(device) for device in jax.devices()},
        "settings": {"backend": jax.default_backend(), "default float": str(jnp.result_type(float))},
        "caches": {name: _size(cache_dir() / name) for name in ("checkpoints", "compiled")},
        "validated kernels": {aimed.device.kind: ", ".join(sorted(aimed.validated)) or "none"},
        "attention": {call: f"{name}: {reason}" for call, (name, reason) in attention.items()},
    }


def validate_kernels(
    cases: Iterable[Case] = CASES,
    limit: float = LIMIT,
    quiet: bool = True,
    told: Callable[[str, int, int], None] = lambda kernel, done, of: None,
) -> dict[str, Any]:
    """Compares every kernel for the present device with the reference, and saves which ones equal it.

    Each kernel runs in a process of its own, which is killed if one comparison takes more than `limit` seconds. `told`
    is called with the kernel's name, the number of finished comparisons, and their total. If no kernel is written for
    the device, XLA's is compared and nothing is saved. Returns JSON values.

    Raises:
      SubprocessError: no device can be used.
      InputError: the result cannot be saved.
    """
    device = next(run_in_subprocess(_device_here, limit=limit, quiet=quiet))
    own = {name: kernel for name, kernel in KERNELS.items() if kernel.platform == device.platform}
    if own:
        save_validated(device, target_of(device).validated)  # fails before the work if nothing can be written there
    found = {}
    for name, kernel in (own or {"blockwise": Kernel(device.platform, XLA["blockwise"], _do_nothing)}).items():
        pairs = supported_cases(kernel, device, cases)
        rows = list[Comparison]()
        ended = None
        told(name, 0, len(pairs))
        try:
            for row in run_in_subprocess(compare_cases, kernel, pairs, limit=limit, quiet=quiet) if pairs else ():
                rows.append(row)
                told(name, len(rows), len(pairs))
        except SubprocessError as error:
            case, dtype = pairs[len(rows)]
            ended = f"{case.name}, {dtype}: {error}"
        found[name] = _summary(rows, len(pairs), ended)
    validated = frozenset(name for name in own if found[name]["passed"])
    file = None
    if own:
        file = str(save_validated(device, validated))
    return {"device": asdict(device), "kernels": found, "validated": sorted(validated), "file": file}


def _summary(rows: list[Comparison], accepted: int, ended: str | None) -> dict[str, Any]:
    """Summarizes one kernel: whether it equals the reference in all supported cases, and each dtype's worst case."""
    worst: dict[str, Comparison] = {}
    for row in rows:
        if row.dtype not in worst or row.excess > worst[row.dtype].excess:
            worst[row.dtype] = row
    return {
        "passed": 0 < accepted == sum(row.passed for row in rows),
        "accepted": accepted,
        "compared": len(rows),
        "ended": ended,
        "worst": {dtype: _plain(row) for dtype, row in worst.items()},
        "failed": [_plain(row) for row in rows if not row.passed],
    }


def _plain(row: Comparison) -> dict[str, Any]:
    """Returns a comparison as JSON values, with null for numbers that are not finite."""
    fields = row._asdict().items()
    return {name: None if isinstance(x, float) and not isfinite(x) else x for name, x in fields}


def _do_nothing(call: AttentionCall, device: Device) -> None:
    """The `unsupported_reason` of a kernel that supports everything."""


def _device_here() -> Iterator[Device]:
    yield Device.of(jax.devices()[0])


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
