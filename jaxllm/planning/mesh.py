"""Meshes without devices."""

import math
from typing import NamedTuple


class Extents(NamedTuple):
    """A mesh without devices: how many there are along each axis."""

    shape: dict[str, int]

    @property
    def size(self) -> int:
        """The number of devices."""
        return math.prod(self.shape.values())

    def __str__(self) -> str:
        return ", ".join(f"{axis}={extent}" for axis, extent in self.shape.items() if extent > 1) or "one device"
