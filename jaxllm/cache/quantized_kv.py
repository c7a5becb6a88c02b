"""Eight-bit keys and values: integers or floats with one scale for each vector."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

DTYPES = {"int8": jnp.dtype(jnp.int8), "fp8": jnp.dtype(jnp.float8_e4m3fn)}
_MAX_VALUE = {DTYPES["int8"]: 127.0, DTYPES["fp8"]: 448.0}


class QuantizedKV(NamedTuple):
    """Quantized vectors.

    Attributes:
      values: int8 or float8, [... H].
      scale: factor of each vector, float32 [...].
    """

    values: jax.Array
    scale: jax.Array


KVArray = jax.Array | QuantizedKV


def quantize_kv(x: jax.Array, dtype: Any) -> QuantizedKV:
    """Quantizes vectors [... H], each scaled so that its largest component is the largest value of the dtype."""
    x = x.astype(jnp.float32)
    largest = jnp.abs(x).max(axis=-1)
    scale = jnp.where(largest > 0, largest, 1) / _MAX_VALUE[jnp.dtype(dtype)]
    values = x / scale[..., None]
    if jnp.issubdtype(dtype, jnp.integer):
        values = jnp.round(values)
    return QuantizedKV(values.astype(dtype), scale)


def encode_like(x: jax.Array, target: KVArray) -> KVArray:
    """Converts vectors [... H] to the dtype of `target`, quantized if it is."""
    if isinstance(target, QuantizedKV):
        return quantize_kv(x, target.values.dtype)
    return x.astype(target.dtype)


def zeros_kv(shape: tuple[int, ...], dtype: Any) -> KVArray:
    """Creates vectors [... H] of zeros, quantized if the dtype has eight bits."""
    zeros = jnp.zeros(shape, dtype)
    if jnp.dtype(dtype) in _MAX_VALUE:
        return QuantizedKV(zeros, jnp.zeros(shape[:-1], jnp.float32))
    return zeros


def values_and_scale(array: KVArray) -> tuple[jax.Array, jax.Array | None]:
    """Returns the stored values, and their scale if they are quantized."""
    if isinstance(array, QuantizedKV):
        return array.values, array.scale
    return array, None
