"""What a model has read of one row, kept for a next prompt that begins alike, in memory or in a file."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm import config
from jaxllm.cache import Cache, Tokens
from jaxllm.errors import InputError
from jaxllm.generation import prompt_file
from jaxllm.generation.decode import CHUNK, begin, bucket, on_mesh_of
from jaxllm.generation.prompt_file import Origin, difference
from jaxllm.models.decoder import Decoder


class Taken(NamedTuple):
    """What one generation has of a prompt cache: for whom it was taken, the cache if there is one, and how much of it.

    `shared` is how many first tokens of the prompt are in it.
    """

    origin: Origin
    cache: Cache | None = None
    shared: int = 0


class _Kept(NamedTuple):
    """Who has read what."""

    origin: Origin
    cache: Cache
    tokens: list[int]


class PromptCache:
    """What one model has read of one row: nothing at first, then what the last generation that was given it has read.

    A prompt is given whole; as many of its first tokens as are kept here are not read again. Going back to fewer than
    are kept costs nothing, but where the model would have to be asked again all is read anew: behind the end of a
    sliding window, and where LongRoPE or dynamic scaling had other frequencies. Under dynamic scaling what is kept
    has the frequencies of its day, as everywhere in decoding.

    One generation at a time goes on with it: of several, in threads or in turn, the last to take it does, and others
    end with an InputError, or read all of their prompts themselves.
    """

    def __init__(self):
        self._kept: _Kept | None = None
        self._lock = Lock()  # what one generation has taken, another's thread must not see as kept

    @property
    def tokens(self) -> tuple[int, ...]:
        """What is kept: a prompt and what followed it, but for the last token, which was not read yet."""
        kept = self._kept
        return tuple(kept.tokens) if kept else ()

    def take(self, model: Decoder, prompt: Sequence[int], cache_dtype: Any) -> Taken:
        """What can be used for a prompt; until `keep`, nothing is kept here.

        In the context of the model's mesh. The arrays are the caller's, to be donated.

        Raises:
            InputError: the model is not the one that has read what is kept, or is to keep it otherwise.
        """
        origin = Origin.of(model, cache_dtype)
        with self._lock:
            kept = self._kept
            if kept is None:
                return Taken(origin)
            _require_same(kept.origin, origin)
            self._kept = None
        size = len(kept.tokens)
        shared = min(_shared(kept.tokens, prompt), len(prompt) - 1)  # what the last token comes to is not kept
        if not shared or not _alike(model.config, size, shared, len(prompt)):
            return Taken(origin)
        trimmed = kept.cache.trimmed(size, shared)
        return Taken(origin) if trimmed is None else Taken(origin, trimmed, shared)

    def keep(self, origin: Origin, cache: Cache, tokens: Sequence[int]) -> None:
        """Keeps what the model that has `taken` with this origin has read, tokens and their cache."""
        with self._lock:
            self._kept = _Kept(origin, cache, list(tokens))

    def release(self, cache: Cache) -> None:
        """Lets go of what `keep` was given, for the caller to go on with.

        Raises:
            InputError: another generation has taken it meanwhile.
        """
        with self._lock:
            if self._kept is None or self._kept.cache is not cache:
                raise InputError("prompt_cache: another generation has gone on with it; this one cannot")
            self._kept = None

    def save(self, path: str | os.PathLike) -> None:
        """Writes a file that `load` reads on any mesh; one that is there is replaced, at once and as a whole.

        Raises:
            InputError: nothing is kept, the file cannot be written, or this process is one of several.
        """
        _require_one_process(path)
        with self._lock:
            kept = self._kept
            if kept is None:
                raise InputError(f"{path}: the prompt cache is empty: there is nothing to write")
            entries = jax.device_get(kept.cache.entries)
        prompt_file.write(Path(path), kept.origin, kept.tokens, entries)

    @classmethod
    def load(cls, path: str | os.PathLike, model: Decoder) -> Self:
        """What `save` wrote, on the mesh of the same model.

        Raises:
            InputError: no whole file of this kind, one of another model (config, dtype or weights), or this process
                is one of several.
        """
        _require_one_process(path)
        facts, arrays = prompt_file.read(Path(path))
        with on_mesh_of(model)():
            loaded = cls()
            origin = Origin.of(model, prompt_file.cache_dtype(facts))
            if different := difference(origin.facts, facts):
                raise InputError(f"{path}: is of another model: {different}")
            tokens, entries = prompt_file.entries(Path(path), origin, arrays)
            cache = _placed(model, tokens, model.layers.together(entries), jnp.dtype(origin.cache_dtype))
            loaded.keep(origin, cache, tokens)
        return loaded


def _placed(model: Decoder, tokens: Sequence[int], entries: Any, dtype: Any) -> Cache:
    """The cache of one row from arrays of the host, [1 K t ...] or [stages K t ...], where the model wants it."""
    length, capacity = len(tokens), bucket(len(tokens) + CHUNK, least=64)
    like = jax.eval_shape(partial(begin, model, 1, capacity, dtype))
    where = jax.tree.map(lambda x: x.sharding, begin(model, 1, 1, dtype))

    def place(array: np.ndarray, like: jax.ShapeDtypeStruct, sharding: Any) -> jax.Array:
        room = np.zeros(like.shape, like.dtype)
        room[:, :, : array.shape[2]] = np.repeat(array, like.shape[1] // array.shape[1], axis=1)
        return jax.device_put(room, sharding)

    read = None
    if like.tokens is not None:
        row = np.pad(np.asarray(tokens, np.int32), (0, capacity - length))[None]
        read = jax.device_put(Tokens(jnp.asarray(row), jnp.full(1, length, jnp.int32)), where.tokens)
    return Cache(jax.tree.map(place, entries, like.entries, where.entries), jnp.full(1, length, jnp.int32), read)


def _shared(kept: Sequence[int], prompt: Sequence[int]) -> int:
    """How many first tokens two rows have in common."""
    size = min(len(kept), len(prompt))
    differing = np.flatnonzero(np.asarray(kept[:size]) != np.asarray(prompt[:size]))
    return int(differing[0]) if differing.size else size


def _alike(part: config.Decoder, kept: int, shared: int, wanted: int) -> bool:
    """Whether the first tokens of `kept` ones were read with the frequencies of a row of `wanted`.

    A row that grows beyond one of the turning lengths is none of ours: the model sees to that itself.
    """
    turned = any(wanted <= turn < kept for turn in part.turning_lengths)
    return not turned and (shared == kept or kept <= part.stretching_length)


def _require_same(kept: Origin, now: Origin) -> None:
    if different := difference(now.facts, kept.facts):
        raise InputError(f"prompt_cache: was read by another model, or kept otherwise: {different}")
    if kept.mesh != now.mesh:
        raise InputError("prompt_cache: is on another mesh; save it to a file, and load that on this one")


def _require_one_process(path: str | os.PathLike) -> None:
    if jax.process_count() > 1:
        raise InputError(f"{path}: prompt caches go to files and back in one process, not in {jax.process_count()}")
