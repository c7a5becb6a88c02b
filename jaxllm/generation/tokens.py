"""Generation on token ids: batches of prompts in, tokens out, a chunk of compiled steps at a time."""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from typing import Any, TypedDict, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.cache import Cache
from jaxllm.checks import whole_number
from jaxllm.distributed import broadcast
from jaxllm.errors import InputError
from jaxllm.generation.decode import (
    CHUNK,
    Emitted,
    Limits,
    State,
    begin,
    bucket,
    decode,
    grow,
    on_mesh_of,
    prefill,
    read,
)
from jaxllm.generation.prompt_cache import PromptCache, Taken
from jaxllm.models.decoder import Decoder
from jaxllm.narrow import DTYPES
from jaxllm.sampling import Sampler

PREFILL_CHUNK = 2048  # tokens of a prompt that are read at a time, for activations not to grow with it
_ROOM = 512  # positions that a cache begins with, where more may be needed later


class Options(TypedDict, total=False):
    """What the caller may ask of a generation, under Transformers' names."""

    max_new_tokens: int  # 256
    temperature: float  # 0: the likeliest token
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    seed: int | None  # the same seed, the same tokens; None draws one
    eos_token_id: int | Sequence[int] | None  # None: the model's own; []: nothing ends a row
    prefill_chunk_size: int  # 2048: so many tokens of a prompt are read at a time
    cache_dtype: str | None  # "int8", "fp8"; None: the model's own
    prompt_cache: PromptCache | None  # what it has of the prompt is not read again; then it has all that was read


@dataclass(frozen=True)
class Step:
    """One time step of a batch, each field [B]: token, its log-probability, whether it counts, whether it is the last.

    Log-probabilities are natural and the model's own, before sampling settings.
    """

    token: np.ndarray
    logprob: np.ndarray
    live: np.ndarray
    last: np.ndarray


def generate_tokens(model: Decoder, prompts: Sequence[Sequence[int]], **options: Unpack[Options]) -> list[list[int]]:
    """The new tokens of each prompt, the one that ended it included; raises as `steps` does."""
    rows: list[list[int]] = [[] for _ in prompts]
    for step in steps(model, prompts, **options):
        for row, token, live in zip(rows, step.token.tolist(), step.live.tolist(), strict=True):
            if live:
                row.append(token)
    return rows


def steps(model: Decoder, prompts: Sequence[Sequence[int]], **options: Unpack[Options]) -> Iterator[Step]:
    """Decodes a batch of prompts of any lengths, a time step after the other, until every row has ended.

    A row ends with an end token, after `max_new_tokens`, or at the model's context. Row r draws from the seed and r, so
    that the first row is the same in any batch.

    A `prompt_cache` of one prompt has, at each step, what was read up to it: tokens decoded ahead of the step as well,
    which a next prompt drops, but where a sliding window has begun to let go of positions, no token is ahead.

    Raises:
        InputError: no prompts, an empty one, one that fills the context, ids outside the vocabulary, bad options, a
            `prompt_cache` of another model, of other settings, or for several prompts.
    """
    rows = _rows(model, prompts)
    on_mesh, longest, said = on_mesh_of(model), max(map(len, rows)), rows[0].tolist()
    finished, count, size = np.zeros(len(rows), bool), 1, 1
    with on_mesh():  # never across a yield, where it would be the caller's too
        asked = _settings(model, rows, options)
        kept, taken = asked.kept, asked.kept and asked.kept.take(model, said, asked.cache_dtype)
        state, emitted, most = _started(model, rows, asked, taken)
    while True:
        new = list(_unpacked(emitted))
        if kept and taken:
            said += (int(step.token[0]) for step in new)
            kept.keep(taken.origin, state.cache, said[:-1])
        for step in new:
            finished |= step.last
            yield step
        if finished.all():
            return
        with on_mesh():
            needed = longest + count - 1 + size
            if kept:
                kept.release(state.cache)
                size = size if needed <= state.cache.window else 1
            state = replace(state, cache=_with_room(state.cache, needed, most))
            state, emitted = decode(model, state, asked.sampler, asked.limits, jnp.int32(size))
        count, size = count + size, min(2 * size, CHUNK)  # short chunks first: the first words come at once


def _started(
    model: Decoder, rows: Sequence[np.ndarray], asked: "_Settings", taken: Taken | None
) -> tuple[State, Emitted, int]:
    """Reads prompts, but for what is kept of them: with a first token of each, and the most room that they may need."""
    cache, begun = (taken.cache, taken.shared) if taken else (None, 0)
    *chunks, rest = _chunks(rows, begun, asked.chunk)
    lengths, end = np.array([len(row) for row in rows], np.int32), begun + sum(x.shape[1] for x in (*chunks, rest))
    most = bucket(max(end, int((lengths + asked.limits.tokens).max())), least=64)
    capacity = min(most, max(_ROOM, bucket(max(end, int(lengths.max()) + CHUNK), least=64)))
    cache = _with_room(cache or begin(model, len(rows), capacity, asked.cache_dtype), capacity, most)
    last = None
    for chunk in chunks:
        cache, last = read(model, cache, last, chunk, lengths)
    state, emitted = prefill(model, cache, last, rest, lengths, asked.seen, asked.keys, asked.sampler, asked.limits)
    return state, emitted, most


def eos_token_ids(model: Decoder, given: int | Sequence[int] | None) -> tuple[int, ...]:
    """What ends a row: the ids given, or else the model's own."""
    ids = np.atleast_1d(np.asarray(model.config.eos_token_ids if given is None else given)).tolist()
    return tuple(whole_number("eos_token_id", item, least=-1) for item in ids)


def _with_room(cache: Cache, needed: int, most: int) -> Cache:
    """The cache, at least doubled if it cannot take `needed` positions: memory follows the text, not its limit."""
    if needed <= cache.capacity or cache.capacity >= most:
        return cache
    return grow(cache, min(max(2 * int(cache.capacity), bucket(needed, least=64)), most))


def _unpacked(emitted: Emitted) -> Iterator[Step]:
    arrays = jax.device_get(emitted)
    for at in range(arrays.live.shape[1]):
        if arrays.live[:, at].any():
            yield Step(*(array[:, at] for array in arrays))


def _rows(model: Decoder, prompts: Sequence[Sequence[int]]) -> list[np.ndarray]:
    rows = [_row(model, index, prompt) for index, prompt in enumerate(prompts)]
    if not rows:
        raise InputError("no prompts")
    return rows


def _chunks(rows: Sequence[np.ndarray], begun: int, size: int) -> Iterator[np.ndarray]:
    """Prompts from position `begun` on as int32 [B T], right-padded: T is `size`, and of the last a bucket."""
    longest = max(map(len, rows))
    for start in range(begun, longest, size):
        width = size if start + size < longest else min(bucket(longest - start, least=16), size)
        tokens = np.zeros((len(rows), width), np.int32)
        for padded, row in zip(tokens, rows, strict=True):
            some = row[start : start + width]
            padded[: len(some)] = some
        yield tokens


def _row(model: Decoder, index: int, prompt: Sequence[int]) -> np.ndarray:
    row, vocab, limit = np.asarray(prompt), model.config.vocab_size, model.config.limit
    if row.shape == (0,):
        raise InputError(f"prompt {index} is empty: there is nothing to continue")
    if row.ndim != 1 or not np.issubdtype(row.dtype, np.integer):
        raise InputError(f"prompt {index}: must be a sequence of token ids")
    if len(row) >= limit:
        raise InputError(f"prompt {index} has {len(row)} tokens, which fills the model's context of {limit}")
    if (wrong := row[(row < 0) | (row >= vocab)]).size:
        raise InputError(f"prompt {index}: token {wrong[0]} is outside the model's vocabulary of {vocab}")
    return row


@dataclass(frozen=True)
class _Settings:
    """Checked options, a random key per row, and the tokens [B V] that each has already seen, where that matters."""

    sampler: Sampler
    limits: Limits
    keys: jax.Array
    seen: np.ndarray | None
    chunk: int
    cache_dtype: Any
    kept: PromptCache | None


def _settings(model: Decoder, rows: Sequence[np.ndarray], options: Options) -> _Settings:
    for name in options:
        if name not in Options.__annotations__:
            near = get_close_matches(name, Options.__annotations__, n=1)
            raise InputError(f"unknown option {name!r}" + (f"; did you mean {near[0]}?" if near else ""))
    sampling: dict[str, Any] = dict(options)
    count = whole_number("max_new_tokens", sampling.pop("max_new_tokens", 256), least=1)
    chunk = whole_number("prefill_chunk_size", sampling.pop("prefill_chunk_size", PREFILL_CHUNK), least=1)
    narrow, kept = sampling.pop("cache_dtype", None), sampling.pop("prompt_cache", None)
    if narrow not in (None, *DTYPES):
        raise InputError(
            f"cache_dtype={narrow!r}: must be {' or '.join(map(repr, DTYPES))}, or None for the model's own"
        )
    if kept is not None and (not isinstance(kept, PromptCache) or len(rows) > 1):
        wrong = f"keeps one prompt, not {len(rows)}" if isinstance(kept, PromptCache) else "must be a PromptCache"
        raise InputError(f"prompt_cache: {wrong}")
    eos, seed = eos_token_ids(model, sampling.pop("eos_token_id", None)), sampling.pop("seed", None)
    seed = broadcast(partial(secrets.randbits, 32)) if seed is None else seed
    key = jax.random.key(np.uint32(whole_number("seed", seed, least=0, most=2**32 - 1)))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(rows)))
    room = [min(count, int(min(model.config.limit, 2**31 - 1)) - len(row)) for row in rows]
    limits, sampler = Limits(jnp.asarray([*eos, -1], jnp.int32), jnp.asarray(room, jnp.int32)), Sampler.of(**sampling)
    seen = None if sampler.repetition_penalty is None else _seen(rows, model.config.vocab_size)
    return _Settings(sampler, limits, keys, seen, chunk, None if narrow is None else DTYPES[narrow], kept)


def _seen(rows: Sequence[np.ndarray], vocab: int) -> np.ndarray:
    """Which tokens are in each row, bool [B V]."""
    seen = np.zeros((len(rows), vocab), bool)
    for marked, row in zip(seen, rows, strict=True):
        marked[row] = True
    return seen
