"""Sampling: small pure functions from logits to the next token, applied in the order of Transformers.

All take and return logits, float [B V]. A filter sets what it removes to -inf. Settings are arrays, so a program does
not depend on their values; a setting that is None is left out of the program.
"""

from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp

from jaxllm.generation.options import GenerationOptions


def penalize_repetition(logits: jax.Array, seen: jax.Array, penalty: jax.Array) -> jax.Array:
    """Makes tokens less likely that the row already has, bool [B V] (Keskar et al. 2019)."""
    return jnp.where(seen, jnp.where(logits < 0, logits * penalty, logits / penalty), logits)


def keep_top_k(logits: jax.Array, k: jax.Array) -> jax.Array:
    """Keeps the k likeliest tokens (Fan et al. 2018), and ties."""
    least = jnp.sort(logits, axis=-1)[:, ::-1][:, jnp.minimum(k, logits.shape[-1]) - 1]
    return jnp.where(logits < least[:, None], -jnp.inf, logits)


def keep_top_p(logits: jax.Array, p: jax.Array) -> jax.Array:
    """Keeps the smallest set of likeliest tokens whose probabilities reach p (Holtzman et al. 2020), at least one."""
    ascending = jnp.sort(logits, axis=-1)
    below = jnp.cumsum(jax.nn.softmax(ascending, axis=-1), axis=-1) <= 1 - p
    least = jnp.where(below, jnp.inf, ascending).at[:, -1].set(ascending[:, -1]).min(axis=-1)
    return jnp.where(logits < least[:, None], -jnp.inf, logits)


def keep_min_p(logits: jax.Array, p: jax.Array) -> jax.Array:
    """Keeps tokens at least p times as likely as the likeliest (Nguyen et al. 2024)."""
    probabilities = jax.nn.softmax(logits, axis=-1)
    return jnp.where(probabilities < p * probabilities.max(axis=-1, keepdims=True), -jnp.inf, logits)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sampler:
    """The sampling settings of one generation, each a scalar array, or None where it has no effect.

    Decoding is greedy without a temperature.
    """

    temperature: jax.Array | None = None
    top_k: jax.Array | None = None
    top_p: jax.Array | None = None
    min_p: jax.Array | None = None
    repetition_penalty: jax.Array | None = None

    @classmethod
    def of(cls, options: GenerationOptions) -> Self:
        """Returns the sampler of validated options; greedy decoding ignores all but the repetition penalty."""
        penalty = _unless(1.0, options.repetition_penalty)
        temperature = _unless(0.0, options.temperature)
        if temperature is None:
            return cls(repetition_penalty=penalty)
        top_k = _unless(0, options.top_k, jnp.int32)
        return cls(temperature, top_k, _unless(1.0, options.top_p), _unless(0.0, options.min_p), penalty)

    def next_token(self, logits: jax.Array, seen: jax.Array | None, keys: jax.Array) -> jax.Array:
        """Returns the next token of each row, int32 [B].

        Args:
          logits: [B V].
          seen: tokens that each row already has, bool [B V]; only needed for the repetition penalty.
          keys: random keys, [B].
        """
        logits = self.filtered(logits, seen)
        if self.temperature is None:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)

    def filtered(self, logits: jax.Array, seen: jax.Array | None) -> jax.Array:
        """Returns the logits [B V] that a token is drawn from, in Transformers' order of processors."""
        if self.repetition_penalty is not None:
            assert seen is not None, "the repetition penalty needs the tokens that each row has"
            logits = penalize_repetition(logits, seen, self.repetition_penalty)
        if self.temperature is not None:
            logits = logits / self.temperature
        for setting, keep in ((self.top_k, keep_top_k), (self.top_p, keep_top_p), (self.min_p, keep_min_p)):
            if setting is not None:
                logits = keep(logits, setting)
        return logits


def _unless(neutral: float, value: float | None, dtype: Any = jnp.float32) -> jax.Array | None:
    """Returns a setting as an array; None for a value without effect."""
    if value is None or value == neutral:
        return None
    return dtype(value)
