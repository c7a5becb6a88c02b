"""What attention is made for: a device, and the kernels that have equalled the reference on it."""

import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jax

from jaxllm.kernels.request import Device
from jaxllm.storage import cache_dir
from jaxllm.version import __version__
from jaxllm.workspace import replacing

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
    """Writes down which kernels equalled the reference on a device, for these versions of JAX and jaxllm; the file.

    Raises:
        InputError: it cannot be written.
    """
    file = _file()
    written = {**_read(file), _key(device): sorted(proven)}
    with replacing(file) as work:
        work.write_text(json.dumps(written, indent=1))
    _remembered.cache_clear()
    return file


@cache
def _remembered(file: Path, key: str) -> frozenset[str]:
    return frozenset(_read(file).get(key, ()))


def _read(file: Path) -> dict[str, list[str]]:
    """What is remembered; nothing where the file is not whole, for it can be made again."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    names = found.items() if isinstance(found, dict) else ()
    return {key: its for key, its in names if isinstance(its, list) and all(isinstance(name, str) for name in its)}


def _file() -> Path:
    return cache_dir() / "kernels.json"


def _key(device: Device) -> str:
    return f"{device.platform} {device.kind}, jax {jax.__version__}, jaxllm {__version__}"
