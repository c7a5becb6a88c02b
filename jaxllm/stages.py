"""Which layer is in which place of which stage of a pipeline."""

from collections.abc import Hashable, Sequence

Slot = tuple[int | None, ...]


def arrange(parts: Sequence[Hashable], weights: Sequence[Hashable], stages: int) -> tuple[Slot, ...]:
    """The slots of layers, given as parts and by the kinds of their weights.

    In one place are layers of one part, or where that takes over an eighth more places, of the same weights: then
    stages branch there, and each tick copies that place's cache.
    """
    same, alike = slots(parts, stages), slots(weights, stages)
    return same if 8 * len(same) <= 9 * len(alike) else alike


def slots(kinds: Sequence[Hashable], stages: int) -> tuple[Slot, ...]:
    """For every place, the number of the layer that each stage has there; None where it has none.

    Layers are cut into stages of equal length, the first ones a layer longer where it must be. All stages go through
    the same places, and all layers of one place are of one kind: the list of places is the shortest that does it.
    """
    short, longer = divmod(len(kinds), stages)
    merged: list[Slot] = []
    for stage in range(stages):
        start = stage * short + min(stage, longer)
        layers = range(start, start + short + (stage < longer))
        merged = _merge(kinds, merged, layers, stage)
    return tuple(merged)


def _merge(kinds: Sequence[Hashable], merged: list[Slot], layers: Sequence[int], stage: int) -> list[Slot]:
    """The places of the stages before with those of one more: a shortest common supersequence of their kinds."""
    of = [next(kinds[layer] for layer in slot if layer is not None) for slot in merged]
    longest = _longest_common(of, [kinds[layer] for layer in layers])
    result, i, j = [], 0, 0
    while i < len(merged) or j < len(layers):
        if i < len(merged) and j < len(layers) and of[i] == kinds[layers[j]]:
            slot, i, j = (*merged[i], layers[j]), i + 1, j + 1
        elif j == len(layers) or (i < len(merged) and longest[i + 1][j] >= longest[i][j + 1]):
            slot, i = (*merged[i], None), i + 1
        else:
            slot, j = (*[None] * stage, layers[j]), j + 1
        result.append(slot)
    return result


def _longest_common(a: Sequence[Hashable], b: Sequence[Hashable]) -> list[list[int]]:
    """The length of the longest common subsequence of a[i:] and b[j:], for every i and j."""
    longest = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in reversed(range(len(a))):
        for j in reversed(range(len(b))):
            longest[i][j] = 1 + longest[i + 1][j + 1] if a[i] == b[j] else max(longest[i + 1][j], longest[i][j + 1])
    return longest
