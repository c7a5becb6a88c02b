"""What an einops pattern says of shapes."""

import math
import re
from collections.abc import Mapping


def axes(side: str) -> list[list[str]]:
    """The axes of one side of a pattern, grouped as they are merged: "(n h) d" -> [[n, h], [d]]."""
    return [(merged or single).split() for merged, single in re.findall(r"\(([^)]*)\)|(\w+)", side)]


def shape(side: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape that one side of a pattern stands for: "(n h) d" -> (sizes n * h, size d)."""
    return tuple(math.prod(sizes[axis] for axis in group) for group in axes(side))
