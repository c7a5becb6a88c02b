"""Where tokens stand in their rows, and rotary embeddings with their scalings.

Frequencies and tables are float32 whatever the dtype of the model, as PyTorch's are, and the frequencies are
computed by NumPy, in PyTorch's order: a bit lost there is multiplied by the position, and compiled powers lose one.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxllm import config
from jaxllm.cache import Span
from jaxllm.nn.parameter import Init, builds


@builds(config.Rotary)
class Rotary(nnx.Module):
    """Su et al. 2021: turns pairs of dimensions of each head by angles that grow with the position."""

    def __init__(self, init: Init, part: config.Rotary, head_dim: int):
        self.part, self.dim = part, head_dim if part.dim is None else part.dim

    def __call__(self, x: jax.Array, span: Span) -> jax.Array:
        """Queries or keys [B T N H], turned."""
        cos, sin = rotary_tables(self.part, self.dim, span.positions(x.shape[1]), span.horizon)
        return rotate(x, cos, sin, self.part.interleaved)


def rotary_tables(
    part: config.Rotary, dim: int, positions: jax.Array, lengths: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines [B T dim/2], float32, of the angles at positions [B T] of rows of the given lengths [B]."""
    if isinstance(part.scaling, config.DynamicScaling):
        frequencies = _dynamic(part.scaling, part.theta, dim, lengths)  # [B dim/2]
    elif isinstance(part.scaling, config.LongScaling):
        short, long = (_long(part, dim, factors) for factors in (part.scaling.short, part.scaling.long))
        frequencies = jnp.where(lengths[:, None] > part.scaling.original_length, long, short)
    else:
        frequencies = jnp.asarray(frequencies_of(part, dim))[None]
    angles = positions.astype(jnp.float32)[..., None] * frequencies[:, None]
    factor = getattr(part.scaling, "attention_factor", 1.0)
    return jnp.cos(angles) * factor, jnp.sin(angles) * factor


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array, interleaved: bool = False) -> jax.Array:
    """Rotates pairs of the first dimensions of each head of x [B T N H] by the angles of the tables [B T dim/2].

    Pairs are a half of these dimensions apart, or neighbours if `interleaved`.
    """
    half = cos.shape[-1]
    cos, sin = cos[:, :, None].astype(x.dtype), sin[:, :, None].astype(x.dtype)
    turned, rest = x[..., : 2 * half], x[..., 2 * half :]
    if interleaved:
        first, second = turned[..., ::2], turned[..., 1::2]
    else:
        first, second = turned[..., :half], turned[..., half:]
    pair = first * cos - second * sin, second * cos + first * sin
    joined = jnp.stack(pair, axis=-1).reshape(turned.shape) if interleaved else jnp.concatenate(pair, axis=-1)
    return jnp.concatenate([joined, rest], axis=-1)


def frequencies_of(part: config.Rotary, dim: int) -> np.ndarray:
    """Inverse wavelengths after scaling, float32 [dim/2]; of dynamic scaling those within the original length."""
    wavelengths = np.float64(part.theta) ** _exponents(dim).astype(np.float64)
    scale = _SCALINGS.get(type(part.scaling), lambda scaling, wavelengths, part, dim: 1 / wavelengths)
    return scale(part.scaling, wavelengths.astype(np.float32), part, dim).astype(np.float32)


def _exponents(dim: int) -> np.ndarray:
    return np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)


def _long(part: config.Rotary, dim: int, factors: tuple[float, ...]) -> np.ndarray:
    """Frequencies [dim/2], each divided by its factor."""
    wavelengths = (np.float64(part.theta) ** _exponents(dim).astype(np.float64)).astype(np.float32)
    return np.float32(1) / (np.asarray(factors, np.float32) * wavelengths)


def _linear(scaling: config.LinearScaling, wavelengths: np.ndarray, part: config.Rotary, dim: int) -> np.ndarray:
    return 1 / wavelengths / np.float32(scaling.factor)


def _dynamic(scaling: config.DynamicScaling, theta: float, dim: int, lengths: jax.Array) -> jax.Array:
    """Each row has the base that its own length asks for, [B dim/2]."""
    stretch = scaling.factor * lengths.astype(jnp.float32) / scaling.original_length - (scaling.factor - 1)
    base = theta * jnp.maximum(stretch, 1.0) ** (dim / (dim - 2))
    stretched = 1.0 / base[:, None] ** _exponents(dim)
    original = frequencies_of(config.Rotary(theta), dim)
    return jnp.where(lengths[:, None] > scaling.original_length, stretched, original)


def _yarn(scaling: config.YarnScaling, wavelengths: np.ndarray, part: config.Rotary, dim: int) -> np.ndarray:
    def dimension(rotations: float) -> float:
        """The dimension that turns this often over the original length."""
        return dim * math.log(scaling.original_length / (rotations * 2 * math.pi)) / (2 * math.log(part.theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    width = high - low or 0.001  # a step, where the ramp has no width
    ramp = (np.arange(dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(width)
    kept = 1 - np.clip(ramp, 0, 1)
    return 1 / (np.float32(scaling.factor) * wavelengths) * (1 - kept) + 1 / wavelengths * kept


def _llama3(scaling: config.Llama3Scaling, wavelengths: np.ndarray, part: config.Rotary, dim: int) -> np.ndarray:
    frequencies, factor = 1 / wavelengths, np.float32(scaling.factor)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    periods = np.float32(2 * math.pi) / frequencies
    smooth = (np.float32(scaling.original_length) / periods - np.float32(low)) / np.float32(high - low)
    blend = (1 - smooth) * frequencies / factor + smooth * frequencies
    long, short = periods > scaling.original_length / low, periods < scaling.original_length / high
    return np.where(long, frequencies / factor, np.where(short, frequencies, blend))


_SCALINGS = {config.LinearScaling: _linear, config.YarnScaling: _yarn, config.Llama3Scaling: _llama3}
