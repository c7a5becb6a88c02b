"""Where tokens stand in their rows, and rotary embeddings with their scalings.

Frequencies and tables are computed in float32 whatever the dtype of the model, as PyTorch's are: at long positions
the rounding of the angle is part of the model's behaviour.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxllm import config


class Span(NamedTuple):
    """The T tokens of one call: where each row's first one stands [B], and the row's length with them [B]."""

    start: jax.Array
    lengths: jax.Array

    def positions(self, tokens: int) -> jax.Array:
        """Positions of the call's tokens, int32 [B T]."""
        return self.start[:, None] + jnp.arange(tokens, dtype=jnp.int32)


def rotary_tables(part: config.Rotary, head_dim: int, span: Span, tokens: int) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of the angles at each position, float32 [B T H/2] each."""
    frequencies, factor = _frequencies(part, head_dim, span.lengths)  # [B or 1, H/2]
    angles = span.positions(tokens).astype(jnp.float32)[..., None] * frequencies[:, None]
    return jnp.cos(angles) * factor, jnp.sin(angles) * factor


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates the two halves of each head of x [B T N H] against each other by the angles of the tables."""
    cos, sin = cos[:, :, None].astype(x.dtype), sin[:, :, None].astype(x.dtype)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _frequencies(part: config.Rotary, dim: int, lengths: jax.Array) -> tuple[jax.Array, float]:
    """Inverse wavelengths, float32 [B or 1, H/2], and the factor on the tables."""
    scaling = part.scaling
    if isinstance(scaling, config.DynamicScaling):
        return _dynamic(scaling, part.theta, dim, lengths), 1.0
    frequencies = _inverse(part.theta, dim)
    if scaling is not None:
        frequencies = _SCALINGS[type(scaling)](scaling, frequencies, part.theta, dim)
    return frequencies[None], getattr(scaling, "attention_factor", 1.0)


def _inverse(theta: float | jax.Array, dim: int) -> jax.Array:
    exponents = jnp.arange(0, dim, 2, dtype=jnp.float32) / dim
    return 1.0 / jnp.asarray(theta, jnp.float32)[..., None] ** exponents if jnp.ndim(theta) else 1.0 / theta**exponents


def _linear(scaling: config.LinearScaling, frequencies: jax.Array, theta: float, dim: int) -> jax.Array:
    return frequencies / scaling.factor


def _dynamic(scaling: config.DynamicScaling, theta: float, dim: int, lengths: jax.Array) -> jax.Array:
    """Each row has the base that its own length asks for, [B H/2]."""
    ratio = jnp.maximum(lengths, scaling.original_length).astype(jnp.float32) / scaling.original_length
    stretch = scaling.factor * ratio - (scaling.factor - 1)
    return _inverse(theta * stretch ** (dim / (dim - 2)), dim)


def _yarn(scaling: config.YarnScaling, frequencies: jax.Array, theta: float, dim: int) -> jax.Array:
    def dimension(rotations: float) -> float:
        """The dimension that turns this often over the original length."""
        return dim * math.log(scaling.original_length / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    width = high - low or 0.001  # a step, where the ramp has no width
    ramp = jnp.clip((jnp.arange(dim // 2, dtype=jnp.float32) - low) / width, 0, 1)
    return frequencies / scaling.factor * ramp + frequencies * (1 - ramp)


def _llama3(scaling: config.Llama3Scaling, frequencies: jax.Array, theta: float, dim: int) -> jax.Array:
    turns = scaling.original_length * frequencies / (2 * math.pi)  # over the original length
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = jnp.clip((turns - low) / (high - low), 0, 1)
    return (1 - smooth) * frequencies / scaling.factor + smooth * frequencies


_SCALINGS = {config.LinearScaling: _linear, config.YarnScaling: _yarn, config.Llama3Scaling: _llama3}
