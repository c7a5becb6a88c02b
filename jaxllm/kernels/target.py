"""The device that attention is compiled for, and the kernels that have equalled the reference on it."""

import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jax

from jaxllm.atomic_write import atomic_file
from jaxllm.kernels.call import Device
from jaxllm.paths import cache_dir
from jaxllm.version import __version__

_OVERRIDE = jax.make_user_context(None)  # part of the key of JAX's compilation cache


@dataclass(frozen=True)
class Target:
    """A device, and the names of the kernels that are validated on it."""

    device: Device
    validated: frozenset[str] = frozenset()


def override_target(target: Target) -> AbstractContextManager:
    """Returns a context in which programs are compiled for a target that need not be present."""
    return _OVERRIDE(target)


def target() -> Target:
    """Returns the target of `override_target`, or the present device with the kernels that are validated on it."""
    if _OVERRIDE.value is not None:
        return _OVERRIDE.value
    return target_of(Device.of(jax.devices()[0]))


def target_of(device: Device) -> Target:
    """Returns a device with the kernels that this installation has validated on it."""
    return Target(device, _read_validated(_file(), _key(device)))


def save_validated(device: Device, validated: frozenset[str]) -> Path:
    """Saves which kernels equalled the reference on a device, for these versions of JAX and jaxllm; returns the file.

    Raises:
      InputError: the file cannot be written.
    """
    file = _file()
    written = {**_read(file), _key(device): sorted(validated)}
    with atomic_file(file) as work:
        work.write_text(json.dumps(written, indent=1))
    _read_validated.cache_clear()
    return file


@cache
def _read_validated(file: Path, key: str) -> frozenset[str]:
    return frozenset(_read(file).get(key, ()))


def _read(file: Path) -> dict[str, list[str]]:
    """Returns the saved names; none if the file is damaged, since it can be written again."""
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
