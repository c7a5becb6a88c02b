"""What `jaxllm doctor` says: versions, devices, caches and choices of this installation, and kernels' comparison."""

import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.kernels.attention import KERNELS, XLA, Kernel, choose
from jaxllm.kernels.cases import CASES, Case
from jaxllm.kernels.comparison import Compared, accepted, compared
from jaxllm.kernels.inputs import Scores
from jaxllm.kernels.request import Device, Request
from jaxllm.kernels.target import here, remember, target
from jaxllm.kernels.trial import TrialError, trial
from jaxllm.storage import cache_dir
from jaxllm.version import __version__

PACKAGES = ("jax", "jaxlib", "flax", "orbax-checkpoint", "safetensors", "tokenizers", "torch", "transformers")
LIMIT = 120.0  # seconds that one comparison may take, starting the device and compiling included

_PROMPT = Request(1, 2048, 2048, 32, 8, 128, 128, jnp.dtype(jnp.bfloat16), Scores(1.0), offsets=False)
_STEP = replace(_PROMPT, queries=1, keys=8192, offsets=True)
_GEMMA = {"heads": 16, "head_dim": 256, "value_dim": 256, "scores": Scores(1.0, softcap=50.0)}
_WINDOW = {"scores": Scores(1.0, window=4096)}
_LATENT = {"heads": 128, "kv_heads": 128, "head_dim": 192}
_ABSORBED = {"heads": 128, "kv_heads": 1, "head_dim": 576, "value_dim": 512, "scores": Scores(1.0, value_dim=512)}
CALLS = {
    "Llama 3 8B, a prompt": _PROMPT,
    "Llama 3 8B, the rest of a prompt": replace(_PROMPT, keys=8192, offsets=True),
    "Llama 3 8B, decoding": _STEP,
    "Mistral 7B, a prompt": replace(_PROMPT, **_WINDOW),
    "Mistral 7B, the rest of a prompt": replace(_PROMPT, keys=4096 + 2048, offsets=True, **_WINDOW),
    "Mistral 7B, decoding": replace(_STEP, keys=4096, offsets=False, lengths=True, scores=Scores(1.0, causal=False)),
    "Gemma 2 9B, a prompt": replace(_PROMPT, **_GEMMA),
    "Gemma 2 9B, decoding": replace(_STEP, **_GEMMA),
    "DeepSeek V3, a prompt": replace(_PROMPT, **_LATENT),
    "DeepSeek V3, decoding": replace(_STEP, shared_value=True, **_ABSORBED),
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
        "proven kernels": {aimed.device.kind: ", ".join(sorted(aimed.proven)) or "none"},
        "attention": {call: f"{name}: {reason}" for call, (name, reason) in attention.items()},
    }


def prove(
    cases: Iterable[Case] = CASES,
    limit: float = LIMIT,
    quiet: bool = True,
    told: Callable[[str, int, int], None] = lambda kernel, done, of: None,
) -> dict[str, Any]:
    """Compares every kernel for the device that is here with the reference, and remembers those that equal it.

    Each runs in a process of its own, and is given up where one comparison takes more than `limit` seconds; `told` is
    called with the kernel's name and how many of how many comparisons are done. Where no kernel is written for the
    device the one that XLA makes is compared, and nothing remembered. Returns plain JSON values.

    Raises:
        TrialError: no device can be used at all.
        InputError: what is proven could not be written down.
    """
    device = next(trial(_device_here, limit=limit, quiet=quiet))
    own = {name: kernel for name, kernel in KERNELS.items() if kernel.platform == device.platform}
    if own:
        remember(device, here(device).proven)  # before the work: it may be that nothing can be written there
    found = {}
    for name, kernel in (own or {"blockwise": Kernel(device.platform, XLA["blockwise"], _never)}).items():
        pairs, rows, ended = accepted(kernel, device, cases), list[Compared](), None
        told(name, 0, len(pairs))
        try:
            for row in trial(compared, kernel, pairs, limit=limit, quiet=quiet) if pairs else ():
                rows.append(row)
                told(name, len(rows), len(pairs))
        except TrialError as error:
            case, dtype = pairs[len(rows)]
            ended = f"{case.name}, {dtype}: {error}"
        found[name] = _summary(rows, len(pairs), ended)
    proven = frozenset(name for name in own if found[name]["passed"])
    file = str(remember(device, proven)) if own else None
    return {"device": asdict(device), "kernels": found, "proven": sorted(proven), "file": file}


def _summary(rows: list[Compared], accepted: int, ended: str | None) -> dict[str, Any]:
    """Of one kernel: whether it equals the reference wherever it accepts, and the worst case in each dtype."""
    worst: dict[str, Compared] = {}
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


def _plain(row: Compared) -> dict[str, Any]:
    """A row as JSON has it: null for what is not finite."""
    fields = row._asdict().items()
    return {name: None if isinstance(x, float) and not isfinite(x) else x for name, x in fields}


def _never(request: Request, device: Device) -> None:
    """The refusal of a kernel that serves everything."""


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
