"""Bytes of weights and caches on one device of a mesh that need not be present."""

import math
from collections import Counter
from functools import cache
from typing import Any

import jax

from jaxllm.cache import CacheSpec
from jaxllm.config import ModelConfig
from jaxllm.models.abstract import abstract
from jaxllm.planning.mesh import MeshShape
from jaxllm.planning.weights import COMPUTE_DTYPES, Weight, first_layers, layers_per_device, one_layer_per_kind, weights
from jaxllm.sharding import kv_head_replicas, mesh_axes_of, partition

INT4_GROUP = 32  # weights along the contraction that share a scale in int4
SCALE_BYTES = 2
UNITS = {1e9: "GB", 1e6: "MB", 1e3: "kB"}
LARGE_SHARE = 0.01  # a parameter is large if it is more than this share of the model,
LARGE_BYTES = 16e6  # and more bytes than this


def local_shape(name: str, axes: tuple[str, ...], shape: tuple[int, ...], mesh: Any) -> tuple[int, ...]:
    """Returns the shape of one device's shard of an array.

    Raises:
      InputError: an axis that must be split is not divisible.
    """
    spec = partition(name, axes, shape, mesh)
    counts = [math.prod(mesh.shape.get(axis, 1) for axis in mesh_axes_of(entry)) for entry in spec]
    return tuple(-(-size // count) for size, count in zip(shape, counts, strict=True))


def weight_bytes(weight: Weight, stored: str, mesh: Any) -> float:
    """Returns the bytes of one device's shard of a parameter.

    int8 has a 16-bit scale for each row of a matrix, int4 one for each `INT4_GROUP` weights of a row. Norms and biases
    stay 16-bit. Rows that are split over devices have a scale on each.
    """
    shape = local_shape(weight.name, weight.axes, weight.shape, mesh)
    size = math.prod(shape)
    if stored not in ("int8", "int4") or not weight.row_dims:
        return size * weight.dtype.itemsize
    row = math.prod(shape[-weight.row_dims :])
    rows = size // row
    if stored == "int8":
        return size + rows * SCALE_BYTES
    return size / 2 + rows * math.ceil(row / INT4_GROUP) * SCALE_BYTES


def model_bytes(config: ModelConfig, stored: str, mesh: Any) -> float:
    """Returns the bytes of one device's shard of all parameters."""
    stages = mesh.shape.get("stage", 1)
    return sum(weight_bytes(weight, stored, mesh) * count for weight, count in weights(config, stored, stages))


def cache_bytes(config: ModelConfig, stored: str, mesh: Any, batch: int, capacity: int) -> int:
    """Returns the bytes of one device's shard of a cache for `batch` rows of up to `capacity` positions.

    Every device has the key-value heads of its own queries. Rows are split where they are divisible. A latent is whole
    on every device.
    """
    total = 0
    for (axes, shape, itemsize, heads), count in _cache_arrays(
        config, stored, batch, capacity, mesh.shape.get("stage", 1)
    ).items():
        shape = replicated_shape(axes, shape, heads, mesh)
        total += math.prod(local_shape("cache", axes, shape, mesh)) * itemsize * count
    return total


def replicated_shape(axes: tuple[str, ...], shape: tuple[int, ...], heads: int, mesh: Any) -> tuple[int, ...]:
    """Returns a cache array's shape on a mesh, where key-value heads are repeated so that every device has one."""
    if "kv_heads" not in axes:
        return shape
    axis = axes.index("kv_heads")
    replicas = kv_head_replicas(shape[axis], heads, mesh)
    return (*shape[:axis], shape[axis] * replicas, *shape[axis + 1 :])


@cache
def _cache_arrays(
    config: ModelConfig, stored: str, batch: int, capacity: int, stages: int
) -> Counter[tuple[tuple[str, ...], tuple[int, ...], int, int]]:
    """Counts the arrays of a cache on one device by logical axes, shape, bytes of an element, and query heads."""
    model = abstract(one_layer_per_kind(config), COMPUTE_DTYPES[stored])
    arrays: Counter[Any] = Counter()
    if model.cached_stack is None:
        return arrays
    stack = config.stacks[model.cached_stack]
    spec = CacheSpec(batch, capacity, model.dtype, encoder_capacity=capacity)
    cache = jax.eval_shape(lambda: model.empty_cache(spec))
    counts = layers_per_device(stack, config.embed_dim, stages)
    entries = [
        (entry, counts[layer], stack.block(layer).attention.heads)
        for entry, layer in zip(cache.layers, first_layers(stack, config.embed_dim), strict=True)
    ]
    if cache.tokens is not None:
        entries.append((cache.tokens, 1, 1))
    for entry, count, heads in entries:
        axes = jax.tree.leaves(entry.logical_axes())
        for array, names in zip(jax.tree.leaves(entry), axes, strict=True):
            arrays[tuple(names), array.shape, array.dtype.itemsize, heads] += count
    return arrays


def unsharded_weights(config: ModelConfig, stored: str, mesh: Any) -> list[Weight]:
    """Returns the large parameters that are whole on every device, although the mesh is meant to split weights."""
    if math.prod(mesh.shape.values()) == mesh.shape.get("data", 1):
        return []
    kinds = weights(config, stored, mesh.shape.get("stage", 1))
    total = sum(weight.nbytes * count for weight, count in kinds)
    threshold = max(LARGE_BYTES, LARGE_SHARE * total)
    return [
        weight
        for weight, _ in kinds
        if weight.nbytes > threshold and local_shape(weight.name, weight.axes, weight.shape, mesh) == weight.shape
    ]


def describe_unsharded(whole: list[Weight], mesh: Any) -> str:
    """Returns a line that names parameters which are whole on every device."""
    names = [f"{weight.name} {list(weight.shape)}, {format_bytes(weight.nbytes)}" for weight in whole]
    return f"whole on every device of the mesh {MeshShape(dict(mesh.shape))}: {'; '.join(names)}"


def format_bytes(count: float) -> str:
    """Formats a number of bytes with three significant digits."""
    unit = next((unit for unit in UNITS if count >= unit), 1e3)
    return f"{count / unit:,.{_decimals(count / unit)}f} {UNITS[unit]}"


def _decimals(number: float) -> int:
    if number >= 99.5:
        return 0
    if number >= 9.95:
        return 1
    return 2
