"""Bytes of weights and cache on one device, of a mesh that need not be there."""

import math
from collections import Counter
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxllm import config
from jaxllm.cache import AXES
from jaxllm.models.decoder import abstract
from jaxllm.nn.parameter import named_parameters
from jaxllm.planning.mesh import Extents
from jaxllm.sharding import axes_of, partition
from jaxllm.shares import copies
from jaxllm.stages import arrange

GROUP = 32  # weights that share a scale in int4, along the contraction
LARGE_SHARE, LARGE_BYTES = 0.01, 16e6  # of a model; a parameter is large that is more than both
_SCALE_BYTES = 2
CACHE_AXES = {4: AXES, 3: AXES[:3], 2: ("batch", "time"), 1: ("batch",)}  # keys, scales, tokens, horizons

# What weights may be stored as, and the dtype that is computed in.
STORED = {
    "float64": jnp.float64,
    "float32": jnp.float32,
    "bfloat16": jnp.bfloat16,
    "float16": jnp.float16,
    "int8": jnp.bfloat16,
    "int4": jnp.bfloat16,
}


class Weight(NamedTuple):
    """A parameter, by the name that it has in the first layer of its kind."""

    name: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: Any

    @property
    def layer(self) -> str | None:
        """The number of that layer, None for what belongs to none."""
        first, _, rest = self.name.partition(".")
        return rest.partition(".")[0] if first == "layers" else None

    def experts(self, part: config.Decoder) -> tuple[int, int]:
        """How many experts it holds the weights of, and how many of them a token is sent to; (1, 1) for no expert's."""
        if "experts" not in self.axes:
            return 1, 1
        router = part.block(int(self.layer or 0)).feed_forward.router  # pyright: ignore[reportAttributeAccessIssue]
        return router.experts, router.per_token

    @property
    def inputs(self) -> int:
        """With which axis the contraction begins: behind the outputs, which come first."""
        return self.axes.index("embed") + 1 if "embed" in self.axes[:-1] else len(self.axes) - 1

    @property
    def is_matrix(self) -> bool:
        """Whether it is one that would be quantised: no norm, no bias, and no router, which is float32 in any model."""
        wide = self.dtype.itemsize == 4
        return self.name.endswith(".weight") and "norm" not in self.name and self.inputs > 0 and not wide


@cache
def weights(part: config.Decoder, stored: str, stages: int = 1) -> tuple[tuple[Weight, int], ...]:
    """Every parameter of a model but of one layer of each kind, and how many a device has like it."""
    kinds, counts, found = sorted(set(_kinds(part))), _counts(part, stages), []
    for name, parameter in named_parameters(abstract(_reduced(part), STORED[stored])):
        count = 1
        if name.startswith("layers."):
            _, index, inner = name.split(".", 2)
            layer = kinds[int(index)]
            name, count = f"layers.{layer}.{inner}", counts[layer]
        found.append((Weight(name, tuple(parameter.axes), tuple(parameter.shape), parameter.dtype), count))
    return tuple(found)


def parameter_count(part: config.Decoder) -> int:
    """How many numbers there are in a model."""
    return sum(math.prod(weight.shape) * count for weight, count in weights(part, "bfloat16"))


def active_count(part: config.Decoder) -> int:
    """How many of them a token meets: of a mixture's experts, those that it is sent to."""
    return sum(
        math.prod(weight.shape) // weight.experts(part)[0] * weight.experts(part)[1] * count
        for weight, count in weights(part, "bfloat16")
    )


def local_shape(name: str, axes: tuple[str, ...], shape: tuple[int, ...], mesh: Any) -> tuple[int, ...]:
    """The shape of one device's share of an array.

    Raises:
        InputError: it cannot be shared so.
    """
    spec = partition(name, axes, shape, mesh)
    extents = [math.prod(mesh.shape.get(axis, 1) for axis in axes_of(entry)) for entry in spec]
    extents += [1] * (len(shape) - len(extents))
    return tuple(-(-size // extent) for size, extent in zip(shape, extents, strict=True))


def weight_bytes(weight: Weight, stored: str, mesh: Any) -> float:
    """One device's share of a parameter.

    int8 has a scale of 16 bits for each output row of a matrix, int4 one for each `GROUP` weights of a row; norms and
    biases stay 16-bit. Rows that are split over devices have a scale on each.
    """
    shape = local_shape(weight.name, weight.axes, weight.shape, mesh)
    size = math.prod(shape)
    if stored not in ("int8", "int4") or not weight.is_matrix:
        return size * weight.dtype.itemsize
    row = math.prod(shape[weight.inputs :])
    if stored == "int8":
        return size + size // row * _SCALE_BYTES
    return size / 2 + size // row * -(-row // GROUP) * _SCALE_BYTES


def model_bytes(part: config.Decoder, stored: str, mesh: Any) -> float:
    """One device's share of all parameters."""
    kinds = weights(part, stored, mesh.shape.get("stage", 1))
    return sum(weight_bytes(weight, stored, mesh) * count for weight, count in kinds)


def cache_bytes(part: config.Decoder, stored: str, mesh: Any, batch: int, capacity: int) -> int:
    """One device's share of a cache for `batch` rows of up to `capacity` positions.

    Every device has the key-value heads of its own queries; rows are split where they divide; a latent is whole on
    every device.
    """
    leaves, size = _cache_leaves(part, stored, batch, capacity, mesh.shape.get("stage", 1)), 0
    for (shape, width), count in leaves:
        shape = cache_shape(part, shape, mesh)
        size += math.prod(local_shape("cache", CACHE_AXES[len(shape)], shape, mesh)) * width * count
    return size


def cache_shape(part: config.Decoder, shape: tuple[int, ...], mesh: Any) -> tuple[int, ...]:
    """The shape on a mesh of an array of a cache that has this one without: every device has a head of its own."""
    if "kv_heads" not in CACHE_AXES[len(shape)]:
        return shape
    heads = max(block.attention.heads for block in part.blocks)
    return (shape[0], shape[1] * copies(shape[1], heads, mesh), *shape[2:])


def cache_partition(shape: tuple[int, ...], mesh: Any) -> PartitionSpec:
    """How an array of a cache lies on a mesh: on that of a pipeline, the rows [stages * B ...] of all stages."""
    stages, (rows, *inner) = mesh.shape.get("stage", 1), shape
    spec = partition("cache", CACHE_AXES[len(shape)], (rows // stages, *inner), mesh)
    return spec if stages == 1 else PartitionSpec(("stage", *axes_of(spec[0])), *spec[1:])


@cache
def _cache_leaves(
    part: config.Decoder, stored: str, batch: int, capacity: int, stages: int
) -> tuple[tuple[tuple[tuple[int, ...], int], int], ...]:
    """Every shape of an array in a cache, with its width in bytes, and how many there are of it."""
    model, counts, leaves = abstract(_reduced(part), STORED[stored]), _counts(part, stages), Counter()
    empty = jax.eval_shape(lambda: model.new_cache(batch, capacity))
    for count, kept in [(1, empty.tokens), *zip(map(counts.get, sorted(counts)), empty.entries, strict=True)]:
        for leaf in jax.tree.leaves(kept):
            leaves[leaf.shape, leaf.dtype.itemsize] += count
    return tuple(leaves.items())


def unsharded(part: config.Decoder, stored: str, mesh: Any) -> list[Weight]:
    """Large parameters that are whole on every device of a mesh, though it is to split weights."""
    if math.prod(mesh.shape.values()) == mesh.shape.get("data", 1):
        return []
    kinds = weights(part, stored, mesh.shape.get("stage", 1))
    whole = sum(math.prod(weight.shape) * weight.dtype.itemsize * count for weight, count in kinds)
    return [
        weight
        for weight, _ in kinds
        if local_shape(weight.name, weight.axes, weight.shape, mesh) == weight.shape
        and math.prod(weight.shape) * weight.dtype.itemsize > max(LARGE_BYTES, LARGE_SHARE * whole)
    ]


def whole_on_each(whole: list[Weight], mesh: Any) -> str:
    """A line that says so of some parameters."""
    said = (f"{w.name} {list(w.shape)}, {in_bytes(math.prod(w.shape) * w.dtype.itemsize)}" for w in whole)
    return f"whole on every device of the mesh {Extents(dict(mesh.shape))}: {'; '.join(said)}"


def in_bytes(count: float) -> str:
    """A number of bytes to be read, in three digits."""
    unit, name = next(((unit, name) for unit, name in ((1e9, "GB"), (1e6, "MB")) if count >= unit), (1e3, "kB"))
    return f"{count / unit:,.{0 if count >= 99.5 * unit else 1 if count >= 9.95 * unit else 2}f} {name}"


@cache
def _kinds(part: config.Decoder) -> tuple[int, ...]:
    """For every layer the first that has the same weights, by their names and shapes, and the same window."""
    blocks = list(dict.fromkeys(part.block(layer) for layer in range(part.num_layers)))
    weights: dict[config.Block | config.ParallelBlock, tuple] = {
        block: (getattr(block.attention, "window", None),) for block in blocks
    }
    for name, weight in named_parameters(abstract(replace(part, blocks=tuple(blocks), num_layers=len(blocks)))):
        if name.startswith("layers."):
            _, index, inner = name.split(".", 2)
            weights[blocks[int(index)]] += ((inner, weight.shape),)
    first: dict[tuple, int] = {}
    return tuple(first.setdefault(weights[part.block(layer)], layer) for layer in range(part.num_layers))


def _counts(part: config.Decoder, stages: int) -> Counter[int]:
    """How many layers of each kind a device has room for, on so many stages."""
    kinds = _kinds(part)
    places = arrange([part.block(layer) for layer in range(part.num_layers)], kinds, stages)
    return Counter(next(kinds[layer] for layer in place if layer is not None) for place in places)


def _reduced(part: config.Decoder) -> config.Decoder:
    """The same with one layer of each kind."""
    kinds = sorted(set(_kinds(part)))
    return replace(part, blocks=tuple(part.block(layer) for layer in kinds), num_layers=len(kinds))
