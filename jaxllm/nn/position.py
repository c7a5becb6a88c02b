"""Rotary position embeddings and their scalings.

Frequencies and tables are float32 in every model, as in PyTorch. The frequencies are computed by NumPy in PyTorch's
order of operations: an error in the last bit is multiplied by the position, and compiled powers have one.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxllm.cache import CallContext
from jaxllm.config import (
    DynamicNTKScalingConfig,
    LinearScalingConfig,
    Llama3ScalingConfig,
    LongRoPEScalingConfig,
    RotaryConfig,
    YarnScalingConfig,
)
from jaxllm.nn.parameter import ParameterFactory, register_module


@register_module(RotaryConfig)
class Rotary(nnx.Module):
    """Rotates pairs of each head's dimensions by angles proportional to the position (Su et al. 2021)."""

    def __init__(self, init: ParameterFactory, config: RotaryConfig, head_dim: int):
        self.config = config
        self.dim = head_dim if config.rotary_dim is None else config.rotary_dim

    def __call__(self, x: jax.Array, call: CallContext) -> jax.Array:
        """Returns queries or keys [B T N H] with their positions."""
        cos, sin = rotary_cos_sin(self.config, self.dim, call.positions(x.shape[1]), call.rope_length)
        return rotate(x, cos, sin, self.config.interleaved)


def rotary_cos_sin(
    config: RotaryConfig, dim: int, positions: jax.Array, lengths: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the cosines and sines of the rotary angles, float32 [B T dim/2].

    Args:
      config: the rotary embedding.
      dim: number of dimensions of a head that are rotated.
      positions: int32 [B T].
      lengths: length of each row, int32 [B].
    """
    scaling = config.scaling
    if isinstance(scaling, DynamicNTKScalingConfig):
        frequencies = _dynamic_ntk(scaling, config.theta, dim, lengths)  # [B dim/2]
    elif isinstance(scaling, LongRoPEScalingConfig):
        short = _longrope(config.theta, dim, scaling.short_factor)
        long = _longrope(config.theta, dim, scaling.long_factor)
        frequencies = jnp.where(lengths[:, None] > scaling.original_length, long, short)
    else:
        frequencies = jnp.asarray(inverse_frequencies(config, dim))[None]
    angles = positions.astype(jnp.float32)[..., None] * frequencies[:, None]
    factor = getattr(scaling, "attention_factor", 1.0)
    return jnp.cos(angles) * factor, jnp.sin(angles) * factor


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array, interleaved: bool = False) -> jax.Array:
    """Rotates pairs of the first dimensions of each head of x [B T N H] by the angles of the tables [B T dim/2].

    The two dimensions of a pair are dim/2 apart, or neighbors if `interleaved`. Further dimensions stay unchanged.
    """
    half = cos.shape[-1]
    cos = cos[:, :, None].astype(x.dtype)
    sin = sin[:, :, None].astype(x.dtype)
    rotated = x[..., : 2 * half]
    unrotated = x[..., 2 * half :]
    if interleaved:
        first = rotated[..., ::2]
        second = rotated[..., 1::2]
    else:
        first = rotated[..., :half]
        second = rotated[..., half:]
    new_first = first * cos - second * sin
    new_second = second * cos + first * sin
    if interleaved:
        rotated = jnp.stack([new_first, new_second], axis=-1).reshape(rotated.shape)
        return jnp.concatenate([rotated, unrotated], axis=-1)
    return jnp.concatenate([new_first, new_second, unrotated], axis=-1)


def inverse_frequencies(config: RotaryConfig, dim: int) -> np.ndarray:
    """Returns the angle per position of each pair, float32 [dim/2], with linear, YaRN or Llama 3 scaling applied.

    Dynamic NTK and LongRoPE scaling depend on the row, and are not applied.
    """
    periods = (np.float64(config.theta) ** _exponents(dim).astype(np.float64)).astype(np.float32)
    scale = _SCALINGS.get(type(config.scaling))
    if scale is None:
        return (1 / periods).astype(np.float32)
    return scale(config.scaling, periods, config.theta, dim).astype(np.float32)


def _exponents(dim: int) -> np.ndarray:
    return np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)


def _longrope(theta: float, dim: int, factors: tuple[float, ...]) -> np.ndarray:
    """Returns the frequencies [dim/2], each divided by its factor."""
    periods = (np.float64(theta) ** _exponents(dim).astype(np.float64)).astype(np.float32)
    return np.float32(1) / (np.asarray(factors, np.float32) * periods)


def _dynamic_ntk(scaling: DynamicNTKScalingConfig, theta: float, dim: int, lengths: jax.Array) -> jax.Array:
    """Returns the frequencies [B dim/2] of rows of the given lengths [B], each of which has a base of its own."""
    stretch = scaling.factor * lengths.astype(jnp.float32) / scaling.original_length - (scaling.factor - 1)
    base = theta * jnp.maximum(stretch, 1.0) ** (dim / (dim - 2))
    scaled = 1.0 / base[:, None] ** _exponents(dim)
    unscaled = inverse_frequencies(RotaryConfig(theta), dim)
    return jnp.where(lengths[:, None] > scaling.original_length, scaled, unscaled)


def _linear(scaling: LinearScalingConfig, periods: np.ndarray, theta: float, dim: int) -> np.ndarray:
    return 1 / periods / np.float32(scaling.factor)


def _yarn(scaling: YarnScalingConfig, periods: np.ndarray, theta: float, dim: int) -> np.ndarray:
    """Interpolates low frequencies, keeps high ones, and blends those between (Peng et al. 2023, section 3.2)."""

    def correction_dim(rotations: float) -> float:
        """Returns the dimension that rotates this often over the original length."""
        return dim * math.log(scaling.original_length / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low = correction_dim(scaling.beta_fast)
    high = correction_dim(scaling.beta_slow)
    if scaling.truncate:
        low = math.floor(low)
        high = math.ceil(high)
    low = max(low, 0)
    high = min(high, dim - 1)
    width = high - low or 0.001  # avoids a division by zero
    ramp = (np.arange(dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(width)
    extrapolation = 1 - np.clip(ramp, 0, 1)
    return 1 / (np.float32(scaling.factor) * periods) * (1 - extrapolation) + 1 / periods * extrapolation


def _llama3(scaling: Llama3ScalingConfig, periods: np.ndarray, theta: float, dim: int) -> np.ndarray:
    """Divides frequencies of long wavelength by the factor, keeps short ones, and blends those between."""
    frequencies = 1 / periods
    factor = np.float32(scaling.factor)
    low = scaling.low_freq_factor
    high = scaling.high_freq_factor
    wavelengths = np.float32(2 * math.pi) / frequencies
    smooth = (np.float32(scaling.original_length) / wavelengths - np.float32(low)) / np.float32(high - low)
    blended = (1 - smooth) * frequencies / factor + smooth * frequencies
    is_long = wavelengths > scaling.original_length / low
    is_short = wavelengths < scaling.original_length / high
    return np.where(is_long, frequencies / factor, np.where(is_short, frequencies, blended))


_SCALINGS: dict[type, Callable[[Any, np.ndarray, float, int], np.ndarray]] = {
    LinearScalingConfig: _linear,
    YarnScalingConfig: _yarn,
    Llama3ScalingConfig: _llama3,
}
