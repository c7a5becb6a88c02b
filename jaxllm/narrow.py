"""Keys and values kept in eight bits: whole numbers or floats, and for each vector one scale."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

DTYPES = {"int8": jnp.dtype(jnp.int8), "fp8": jnp.dtype(jnp.float8_e4m3fn)}
_LARGEST = {DTYPES["int8"]: 127.0, DTYPES["fp8"]: 448.0}


class Narrow(NamedTuple):
    """Vectors [... H] in eight bits, each to be multiplied by its scale [...], float32."""

    values: jax.Array
    scale: jax.Array


Kept = jax.Array | Narrow


def narrow(x: jax.Array, dtype: Any) -> Narrow:
    """Vectors [... H] with their largest number at the largest of the dtype, the others rounded to the nearest."""
    wide = x.astype(jnp.float32)
    largest = jnp.abs(wide).max(axis=-1)
    scale = jnp.where(largest > 0, largest, 1) / _LARGEST[jnp.dtype(dtype)]
    values = wide / scale[..., None]
    rounded = jnp.round(values) if jnp.issubdtype(dtype, jnp.integer) else values
    return Narrow(rounded.astype(dtype), scale)


def kept_as(x: jax.Array, like: Kept) -> Kept:
    """Vectors [... H] in the form of others."""
    return narrow(x, like.values.dtype) if isinstance(like, Narrow) else x.astype(like.dtype)


def nothing_kept(shape: tuple[int, ...], dtype: Any) -> Kept:
    """Vectors [... H] of zeros, in a dtype of eight bits with scales."""
    zeros = jnp.zeros(shape, dtype)
    return Narrow(zeros, jnp.zeros(shape[:-1], jnp.float32)) if jnp.dtype(dtype) in _LARGEST else zeros


def parts(kept: Kept) -> tuple[jax.Array, jax.Array | None]:
    """What is kept, and its scale if it has one."""
    return (kept.values, kept.scale) if isinstance(kept, Narrow) else (kept, None)
