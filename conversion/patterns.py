"""Einops patterns whose sizes come from shapes, applied in both directions."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from einops import rearrange


def axes(side: str) -> list[list[str]]:
    """Returns the axes of one side of a pattern, grouped as they are merged: "(n h) d" -> [[n, h], [d]]."""
    return [(merged or single).split() for merged, single in re.findall(r"\(([^)]*)\)|(\w+)", side)]


def shape(side: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Returns the shape of one side of a pattern: "(n h) d" -> (n * h, d)."""
    return tuple(math.prod(sizes[axis] for axis in group) for group in axes(side))


@dataclass(frozen=True)
class Pattern:
    """The conversion between one array and the shapes `targets`, which lie side by side along an axis.

    "(k g h) d -> (k g) h d" along g takes a tensor whose rows are, for each k, those of the first target, then of the
    second, and so on. If an axis of a target is merged from two, the one that is not `split_axis` is the number of
    groups: the largest that all targets allow, or the number at the end of its name ("k4").
    """

    text: str
    targets: tuple[tuple[int, ...], ...]
    split_axis: str | None = None

    def split(self, array: np.ndarray, index: int) -> np.ndarray:
        """Returns target number `index` of the source; a view where possible."""
        left, right = self._sides
        if self.split_axis is None:
            return rearrange(array, self.text, **self._sizes[0])
        flat = rearrange(array, f"{left} -> {self._flat}", **self._total)
        start = sum(sizes[self.split_axis] for sizes in self._sizes[:index])
        axis = self._flat.split().index(self.split_axis)
        part = flat[(slice(None),) * axis + (slice(start, start + self._sizes[index][self.split_axis]),)]
        return rearrange(part, f"{self._flat} -> {right}", **self._sizes[index])

    def join(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Returns the source of the targets."""
        left, right = self._sides
        flat = [rearrange(a, f"{right} -> {self._flat}", **s) for a, s in zip(arrays, self._sizes, strict=True)]
        axis = 0
        if self.split_axis:
            axis = self._flat.split().index(self.split_axis)
        return rearrange(flat[0] if len(flat) == 1 else np.concatenate(flat, axis), f"{self._flat} -> {left}")

    @cached_property
    def source(self) -> tuple[int, ...]:
        """Shape of the source."""
        return shape(self._sides[0], self._total)

    @cached_property
    def _sides(self) -> tuple[str, str]:
        left, right = self.text.split("->")
        return left.strip(), right.strip()

    @cached_property
    def _flat(self) -> str:
        """The axes of a target, with merged axes separated."""
        return " ".join(axis for group in axes(self._sides[1]) for axis in group)

    @cached_property
    def _sizes(self) -> list[dict[str, int]]:
        """The size of every axis, for each target."""
        sizes: list[dict[str, int]] = [{} for _ in self.targets]
        for dims, group in zip(zip(*self.targets, strict=True), axes(self._sides[1]), strict=True):
            groups = 1
            if len(group) > 1:
                groups = _groups(group) or math.gcd(*dims)
            for size, dim in zip(sizes, dims, strict=True):
                size.update({axis: groups for axis in group if axis != self.split_axis} if len(group) > 1 else {})
                size[self.split_axis if len(group) > 1 and self.split_axis else group[0]] = dim // groups
        return sizes

    @cached_property
    def _total(self) -> dict[str, int]:
        """The size of every axis of the source."""
        return self._sizes[0] | (
            {self.split_axis: sum(s[self.split_axis] for s in self._sizes)} if self.split_axis else {}
        )


def _groups(axes: list[str]) -> int:
    """Returns the number at the end of an axis's name, or 0."""
    return next((int(match[0]) for axis in axes if (match := re.search(r"\d+$", axis))), 0)
