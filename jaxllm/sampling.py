"""From logits to the next token: small pure functions, applied in Transformers' order.

All take and return logits, float [B V]; a filter sets what it removes to -inf. Settings are arrays, so that no value
of theirs is compiled in, and those that are None are left out of the program.
"""

import math
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp

from jaxllm.checks import real_number, whole_number
from jaxllm.errors import InputError


def penalize_repetition(logits: jax.Array, seen: jax.Array, penalty: jax.Array) -> jax.Array:
    """Makes tokens that are in the row already (bool [B V]) less likely (Keskar et al. 2019)."""
    return jnp.where(seen, jnp.where(logits < 0, logits * penalty, logits / penalty), logits)


def keep_top_k(logits: jax.Array, k: jax.Array) -> jax.Array:
    """Keeps the k likeliest tokens (Fan et al. 2018), more where they tie."""
    least = jnp.sort(logits, axis=-1)[:, ::-1][:, jnp.minimum(k, logits.shape[-1]) - 1]
    return jnp.where(logits < least[:, None], -jnp.inf, logits)


def keep_top_p(logits: jax.Array, p: jax.Array) -> jax.Array:
    """Keeps the fewest likeliest tokens whose probabilities reach p (Holtzman et al. 2020), at least one."""
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
    """The settings of one generation; greedy without a temperature. Scalars, or None for what is not asked for."""

    temperature: jax.Array | None = None
    top_k: jax.Array | None = None
    top_p: jax.Array | None = None
    min_p: jax.Array | None = None
    repetition_penalty: jax.Array | None = None

    @classmethod
    def of(
        cls,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
    ) -> Self:
        """Checked settings; those without effect (`top_k=0`, `top_p=1`, anything but the penalty when greedy) go.

        Raises:
            InputError: a setting outside its range.
        """
        heat = _setting("temperature", temperature, 0, neutral=0.0)
        if heat is not None and heat < 1e-6:  # or logits would overflow
            raise InputError(f"temperature={temperature}: must be 0, for the likeliest token, or at least 1e-06")
        filters = {
            "top_k": _whole("top_k", top_k),
            "top_p": _setting("top_p", top_p, 0, 1, neutral=1.0),
            "min_p": _setting("min_p", min_p, 0, 1, neutral=0.0),
        }
        penalty = _setting("repetition_penalty", repetition_penalty, 1e-6, neutral=1.0)
        return cls(heat, **(filters if heat is not None else {}), repetition_penalty=penalty)

    def next_token(self, logits: jax.Array, seen: jax.Array | None, keys: jax.Array) -> jax.Array:
        """The next token of each row, int32 [B], from logits [B V], tokens seen [B V] and a random key per row."""
        logits = self.filtered(logits, seen)
        if self.temperature is None:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)

    def filtered(self, logits: jax.Array, seen: jax.Array | None) -> jax.Array:
        """The logits [B V] that a token is drawn from; `seen` is needed for the repetition penalty only."""
        if self.repetition_penalty is not None:
            assert seen is not None, "the repetition penalty needs the tokens seen"
            logits = penalize_repetition(logits, seen, self.repetition_penalty)
        if self.temperature is not None:
            logits = logits / self.temperature
        for setting, keep in ((self.top_k, keep_top_k), (self.top_p, keep_top_p), (self.min_p, keep_min_p)):
            logits = logits if setting is None else keep(logits, setting)
        return logits


def _setting(name: str, value: Any, least: float, most: float = math.inf, *, neutral: float) -> jax.Array | None:
    """A setting as an array, or None where it changes nothing."""
    number = neutral if value is None else real_number(name, value, least, most)
    return None if number == neutral else jnp.float32(number)


def _whole(name: str, value: Any) -> jax.Array | None:
    number = 0 if value is None else whole_number(name, value, least=0)
    return None if number == 0 else jnp.int32(number)
