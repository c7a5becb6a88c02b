"""Meshes without devices."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from jaxllm.errors import InputError
from jaxllm.sharding import MESH_AXES


class Extents(NamedTuple):
    """A mesh without devices: how many there are along each axis."""

    shape: dict[str, int]

    @property
    def size(self) -> int:
        """The number of devices."""
        return math.prod(self.shape.values())

    def __str__(self) -> str:
        return ", ".join(f"{axis}={extent}" for axis, extent in self.shape.items() if extent > 1) or "one device"


def resolved(extents: Mapping[str, int], devices: int) -> dict[str, int]:
    """The extents of all axes, -1 being all devices that are left; as `make_mesh` has it, without any devices."""
    full = dict.fromkeys(MESH_AXES, 1) | dict(extents)
    fixed = math.prod(extent for extent in full.values() if extent != -1)
    free = [axis for axis, extent in full.items() if extent == -1]
    if min(full.values()) < -1 or 0 in full.values():
        raise InputError(f"mesh: {full}: extents are positive numbers, or -1 for all devices left")
    if len(free) > 1 or (free and devices % fixed):
        raise InputError(f"mesh: {full} does not divide {devices} devices")
    full |= dict.fromkeys(free, devices // fixed)
    if (count := math.prod(full.values())) > devices:
        raise InputError(f"mesh: {full} needs {count} devices, but there are {devices}")
    return full
