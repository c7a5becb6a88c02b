"""The shape of a mesh whose devices need not be present."""

import math
from typing import NamedTuple


class MeshShape(NamedTuple):
    """The number of devices along each axis of a mesh."""

    shape: dict[str, int]

    @property
    def size(self) -> int:
        """Number of devices."""
        return math.prod(self.shape.values())

    def __str__(self) -> str:
        return ", ".join(f"{axis}={extent}" for axis, extent in self.shape.items() if extent > 1) or "one device"
