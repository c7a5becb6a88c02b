"""What attention is made for: a device, and the kernels that have equalled the reference on it."""

import json
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jax

from jaxllm.kernels.request import Device
from jaxllm.storage import cache_dir
from jaxllm.version import __version__

_AIMED = jax.make_user_context(None)  # part of the key that compiled programs are kept under


@dataclass(frozen=True)
class Target:
    """A device, and the names of the kernels that are proven on it."""

    device: Device
    proven: frozenset[str] = frozenset()


def aim(target: Target) -> AbstractContextManager:
    """A context in which programs are made for a target, though no such device is here: for lowering ahead of time."""
    return _AIMED(target)


def target() -> Target:
    """What programs are made for: what `aim` says, or the device that is here, with what was proven on it."""
    if _AIMED.value is not None:
        return _AIMED.value
    return here(Device.of(jax.devices()[0]))


def here(device: Device) -> Target:
    """A device with what was proven on it by this installation."""
    return Target(device, _remembered(_file(), _key(device)))


def remember(device: Device, proven: frozenset[str]) -> Path:
    """Writes down which kernels equalled the reference on a device, for these versions of JAX and jaxllm; the file."""
    file = _file()
    written = {**_read(file), _key(device): sorted(proven)}
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{os.getpid()}.partial")
    beside.write_text(json.dumps(written, indent=1))
    beside.replace(file)
    _remembered.cache_clear()
    return file


@cache
def _remembered(file: Path, key: str) -> frozenset[str]:
    return frozenset(_read(file).get(key, ()))


def _read(file: Path) -> dict[str, list[str]]:
    """What is remembered; nothing where the file is not whole, for it can be made again."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _file() -> Path:
    return cache_dir() / "kernels.json"


def _key(device: Device) -> str:
    return f"{device.platform} {device.kind}, jax {jax.__version__}, jaxllm {__version__}"
