"""Inverts the changes that llama.cpp's converter makes to weights (`modify_tensors` in its `conversion/`)."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from einops import rearrange

Sizes = Mapping[str, int]


class Change(NamedTuple):
    """Maps a weight of the file to Hugging Face's.

    `rows` gives the required length of the first axis, `shape` the shape of the result from that in the file.
    """

    apply: Callable[[np.ndarray, Sizes], np.ndarray]
    rows: Callable[[Sizes], int] | None = None
    shape: Callable[[tuple[int, ...]], tuple[int, ...]] = tuple


def _unrotated(heads: str) -> Change:
    """Reorders rows from interleaved rotary pairs to pairs that are half a head apart."""

    def apply(array: np.ndarray, sizes: Sizes) -> np.ndarray:
        return rearrange(array, "(n h two) ... -> (n two h) ...", n=sizes[heads], two=2)

    return Change(apply, lambda sizes: sizes[heads] * sizes["head_dim"])


def _interleaved(array: np.ndarray, sizes: Sizes) -> np.ndarray:
    """Reorders all queries, all keys, all values to query, key and value of each head."""
    return rearrange(array, "(three n h) ... -> (n three h) ...", three=3, n=sizes["heads"])


def _grouped(array: np.ndarray, sizes: Sizes) -> np.ndarray:
    """Reorders all queries, all keys, all values to queries, key and value of each key-value head."""
    rows = sizes["head_dim"]
    groups = sizes["kv_heads"]
    ends = (sizes["heads"] * rows, (sizes["heads"] + groups) * rows)
    parts = (part.reshape(groups, -1, *array.shape[1:]) for part in np.split(array, ends))
    return np.concatenate(list(parts), axis=1).reshape(array.shape)


def _same(array: np.ndarray, sizes: Sizes) -> np.ndarray:
    return array


CHANGES = {
    "": Change(_same),
    "unrotate-heads": _unrotated("heads"),
    "unrotate-kv_heads": _unrotated("kv_heads"),
    "interleave": Change(_interleaved, lambda sizes: 3 * sizes["heads"] * sizes["head_dim"]),
    "group": Change(_grouped, lambda sizes: (sizes["heads"] + 2 * sizes["kv_heads"]) * sizes["head_dim"]),
    "transpose": Change(lambda array, sizes: array.T, shape=lambda shape: shape[::-1]),
    # Gemma multiplies by 1 + weight. llama.cpp stores that sum.
    "less-one": Change(lambda array, sizes: array - array.dtype.type(1)),
    # One tensor holds all experts or heads; slices along its first axis are read separately.
    "each-expert": Change(_same, lambda sizes: sizes["experts"]),
    "each-head": Change(_same, lambda sizes: sizes["heads"]),
    "each-kv_head": Change(_same, lambda sizes: sizes["kv_heads"]),
    "one-row": Change(lambda array, sizes: array.reshape(1, -1), shape=lambda shape: (1, math.prod(shape))),
}
