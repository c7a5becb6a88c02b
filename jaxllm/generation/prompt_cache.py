"""Prompt caches: the keys and values of one row, so that later prompts with the same prefix skip prefill."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.cache import Cache, TokenCache
from jaxllm.config import StackConfig
from jaxllm.errors import InputError
from jaxllm.generation import prompt_file
from jaxllm.generation.decode import DECODE_CHUNK, bucket, mesh_context, new_cache
from jaxllm.generation.prompt_file import ModelFingerprint, difference
from jaxllm.models.decoder import Decoder


class CacheHit(NamedTuple):
    """What a prompt cache has for one generation.

    Attributes:
      fingerprint: the generation's model and settings.
      cache: a cache that holds a prefix of the prompt; None if there is none.
      shared: length of that prefix.
    """

    fingerprint: ModelFingerprint
    cache: Cache | None = None
    shared: int = 0


class _StoredRow(NamedTuple):
    fingerprint: ModelFingerprint
    cache: Cache
    tokens: list[int]


class PromptCache:
    """Stores the keys and values of one row, so that later prompts with the same prefix skip prefill.

    Pass it to `generate` with a whole prompt: the prefix that it shares with the stored row is not processed again, and
    afterwards the row is stored. Returning to a shorter prefix costs nothing, except where it would change hidden
    states: behind the end of a sliding window, and where LongRoPE or dynamic NTK scaling used other frequencies. Then
    the whole prompt is processed.

    One generation at a time uses the cache. Of several, in threads or in turn, the last to start does; the others raise
    InputError, or process their whole prompts.
    """

    def __init__(self):
        self._row: _StoredRow | None = None
        self._lock = Lock()

    @property
    def tokens(self) -> tuple[int, ...]:
        """The stored tokens: a prompt and its continuation, without the last token, which was not processed yet."""
        row = self._row
        if row is None:
            return ()
        return tuple(row.tokens)

    def take(self, model: Decoder, prompt: Sequence[int], cache_dtype: Any) -> CacheHit:
        """Takes out what can be reused for a prompt. Until `store` is called, nothing is stored.

        Must be called in the context of the model's mesh. The caller owns the arrays, and may donate them.

        Raises:
          InputError: the stored row belongs to another model, or has another dtype.
        """
        fingerprint = ModelFingerprint.of(model, cache_dtype)
        with self._lock:
            row = self._row
            if row is None:
                return CacheHit(fingerprint)
            _require_same(row.fingerprint, fingerprint)
            self._row = None
        stored = len(row.tokens)
        shared = min(_common_prefix(row.tokens, prompt), len(prompt) - 1)  # the last token must yield logits
        if not shared or not _same_frequencies(model.config.layers, stored, shared, len(prompt)):
            return CacheHit(fingerprint)
        cache = row.cache.truncate(shared, filled=stored)
        if cache is None:
            return CacheHit(fingerprint)
        return CacheHit(fingerprint, cache, shared)

    def store(self, fingerprint: ModelFingerprint, cache: Cache, tokens: Sequence[int]) -> None:
        """Stores a row's tokens and their cache."""
        with self._lock:
            self._row = _StoredRow(fingerprint, cache, list(tokens))

    def release(self, cache: Cache) -> None:
        """Takes out the cache that `store` was given, so that its arrays can be donated.

        Raises:
          InputError: another generation has taken or replaced it.
        """
        with self._lock:
            if self._row is None or self._row.cache is not cache:
                raise InputError("prompt_cache: another generation uses it now; this one cannot continue")
            self._row = None

    def save(self, path: str | os.PathLike) -> None:
        """Writes a file that `load` reads on any mesh. An existing file is replaced atomically.

        Raises:
          InputError: the cache is empty, the file cannot be written, or this process is one of several.
        """
        _require_one_process(path)
        with self._lock:
            row = self._row
            if row is None:
                raise InputError(f"{path}: the prompt cache is empty; pass it to generate first")
            layers = jax.device_get(row.cache.layers)
        prompt_file.write(Path(path), row.fingerprint, row.tokens, layers)

    @classmethod
    def load(cls, path: str | os.PathLike, model: Decoder) -> Self:
        """Reads what `save` wrote, onto the mesh of the same model.

        Raises:
          InputError: the file is not a complete prompt cache, it belongs to another model (config, dtype or weights),
            or this process is one of several.
        """
        _require_one_process(path)
        facts, arrays = prompt_file.read(Path(path))
        with mesh_context(model)():
            loaded = cls()
            fingerprint = ModelFingerprint.of(model, prompt_file.cache_dtype(facts))
            mismatch = difference(fingerprint.facts, facts)
            if mismatch:
                raise InputError(f"{path}: belongs to another model: {mismatch}")
            tokens, layers = prompt_file.layers(Path(path), fingerprint, arrays)
            stacked = model.layers.stack_caches(layers)
            loaded.store(fingerprint, _place(model, tokens, stacked, jnp.dtype(fingerprint.cache_dtype)), tokens)
        return loaded


class PromptCacheSession:
    """One generation's use of a `PromptCache`.

    Attributes:
      cache: a cache that holds a prefix of the prompt; None if there is none.
      shared: length of that prefix.
    """

    def __init__(self, prompt_cache: PromptCache, model: Decoder, prompt: Sequence[int], cache_dtype: Any):
        self._prompt_cache = prompt_cache
        self._tokens = list(prompt)
        self._fingerprint, self.cache, self.shared = prompt_cache.take(model, prompt, cache_dtype)

    def store(self, cache: Cache, new_tokens: Sequence[int]) -> None:
        """Stores the row after a program has generated tokens; the last of them is not in the cache."""
        self._tokens += new_tokens
        self._prompt_cache.store(self._fingerprint, cache, self._tokens[:-1])

    def resume(self, cache: Cache, steps: int, length: int) -> int:
        """Takes the cache back, and returns how many steps to decode for a row of `length`.

        Once a sliding window has begun to overwrite positions, a step cannot be undone: only one is decoded at a time.
        """
        self._prompt_cache.release(cache)
        if length > cache.sliding_window:
            return 1
        return steps


class NoPromptCache:
    """Stands for a `PromptCacheSession` of a generation without a prompt cache."""

    cache = None
    shared = 0

    def store(self, cache: Cache, new_tokens: Sequence[int]) -> None:
        """Does nothing."""

    def resume(self, cache: Cache, steps: int, length: int) -> int:
        """Returns the number of steps unchanged."""
        return steps


def _place(model: Decoder, tokens: Sequence[int], layers: Any, dtype: Any) -> Cache:
    """Places host arrays [1 K t ...], or [stages K t ...], where the model's cache of one row has them."""
    length = len(tokens)
    capacity = bucket(length + DECODE_CHUNK, least=64)
    shapes = jax.eval_shape(partial(new_cache, model, 1, capacity, dtype))
    shardings = jax.tree.map(lambda x: x.sharding, new_cache(model, 1, 1, dtype))

    def place(array: np.ndarray, shape: jax.ShapeDtypeStruct, sharding: Any) -> jax.Array:
        padded = np.zeros(shape.shape, shape.dtype)
        padded[:, :, : array.shape[2]] = np.repeat(array, shape.shape[1] // array.shape[1], axis=1)
        return jax.device_put(padded, sharding)

    token_cache = None
    if shapes.tokens is not None:
        row = np.pad(np.asarray(tokens, np.int32), (0, capacity - length))[None]
        token_cache = TokenCache(jnp.asarray(row), jnp.full(1, length, jnp.int32))
        token_cache = jax.device_put(token_cache, shardings.tokens)
    placed = jax.tree.map(place, layers, shapes.layers, shardings.layers)
    return Cache(placed, jnp.full(1, length, jnp.int32), token_cache)


def _common_prefix(stored: Sequence[int], prompt: Sequence[int]) -> int:
    """Returns the length of the longest common prefix."""
    size = min(len(stored), len(prompt))
    differing = np.flatnonzero(np.asarray(stored[:size]) != np.asarray(prompt[:size]))
    if differing.size:
        return int(differing[0])
    return size


def _same_frequencies(stack: StackConfig, stored: int, shared: int, length: int) -> bool:
    """Whether a prefix of a stored row has the rotary frequencies of a row of the given length.

    A row that grows beyond an original length of LongRoPE does not matter: the model recomputes its cache.
    """
    if any(length <= original < stored for original in stack.longrope_original_lengths):
        return False
    return shared == stored or stored <= stack.dynamic_ntk_original_length


def _require_same(stored: ModelFingerprint, current: ModelFingerprint) -> None:
    mismatch = difference(current.facts, stored.facts)
    if mismatch:
        raise InputError(f"prompt_cache: belongs to another model or other settings: {mismatch}")
    if stored.mesh != current.mesh:
        raise InputError("prompt_cache: is on another mesh; save it to a file, and load that on this mesh")


def _require_one_process(path: str | os.PathLike) -> None:
    if jax.process_count() > 1:
        raise InputError(f"{path}: prompt caches are saved and loaded by one process, not by {jax.process_count()}")
