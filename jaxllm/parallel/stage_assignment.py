"""Assigns the layers of a model to the stages of a pipeline, and to slots within each stage."""

from collections.abc import Hashable, Sequence

Slot = tuple[int | None, ...]  # the layer of each stage, or None


def first_layer(slot: Slot) -> int:
    """Returns the first layer of a slot."""
    return next(layer for layer in slot if layer is not None)


def assign_stages(configs: Sequence[Hashable], weights: Sequence[Hashable], stages: int) -> tuple[Slot, ...]:
    """Returns the slots of a stack's layers, given the config of each layer and what layers of one slot must share.

    All layers of a slot have the same config. If that takes over an eighth more slots than sharing weights alone, they
    have the same weights only; stages then branch in that slot, and each tick copies its cache.
    """
    same = slots(configs, stages)
    alike = slots(weights, stages)
    if 8 * len(same) <= 9 * len(alike):
        return same
    return alike


def slots(kinds: Sequence[Hashable], stages: int) -> tuple[Slot, ...]:
    """Returns for every slot the layer that each stage has there, or None.

    Stages have equally many layers; the first ones have one more if the number does not divide. All stages go through
    the same slots, and all layers of a slot are of one kind. The list of slots is the shortest that achieves this.
    """
    short, longer = divmod(len(kinds), stages)
    merged: list[Slot] = []
    for stage in range(stages):
        start = stage * short + min(stage, longer)
        layers = range(start, start + short + (stage < longer))
        merged = _merge(kinds, merged, layers, stage)
    return tuple(merged)


def _merge(kinds: Sequence[Hashable], merged: list[Slot], layers: Sequence[int], stage: int) -> list[Slot]:
    """Adds a stage to the slots of the previous ones: the shortest common supersequence of their kinds."""
    of = [kinds[first_layer(slot)] for slot in merged]
    longest = _longest_common(of, [kinds[layer] for layer in layers])
    result = []
    i = 0
    j = 0
    while i < len(merged) or j < len(layers):
        if i < len(merged) and j < len(layers) and of[i] == kinds[layers[j]]:
            slot = (*merged[i], layers[j])
            i = i + 1
            j = j + 1
        elif j == len(layers) or (i < len(merged) and longest[i + 1][j] >= longest[i][j + 1]):
            slot = (*merged[i], None)
            i = i + 1
        else:
            slot = (*[None] * stage, layers[j])
            j = j + 1
        result.append(slot)
    return result


def _longest_common(a: Sequence[Hashable], b: Sequence[Hashable]) -> list[list[int]]:
    """Returns the length of the longest common subsequence of a[i:] and b[j:] for every i and j."""
    longest = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in reversed(range(len(a))):
        for j in reversed(range(len(b))):
            longest[i][j] = 1 + longest[i + 1][j + 1] if a[i] == b[j] else max(longest[i + 1][j], longest[i][j + 1])
    return longest
