"""Generation on token ids: a batch of prompts in, tokens out, a chunk of compiled steps at a time."""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.cache import Cache
from jaxllm.cache.quantized_kv import DTYPES
from jaxllm.errors import InputError
from jaxllm.generation.decode import (
    DECODE_CHUNK,
    DecodeState,
    Limits,
    StepOutput,
    bucket,
    decode,
    mesh_context,
    new_cache,
    prefill,
    prefill_chunk,
    resize_cache,
)
from jaxllm.generation.options import GenerationOptions
from jaxllm.generation.prompt_cache import NoPromptCache, PromptCache, PromptCacheSession
from jaxllm.generation.prompts import check_prompts, prompt_chunks, seen_tokens
from jaxllm.generation.sampling import Sampler
from jaxllm.models.decoder import Decoder
from jaxllm.parallel.distributed import broadcast

PREFILL_CHUNK = GenerationOptions.prefill_chunk_size  # bounds the memory of activations, however long a prompt is
INITIAL_CAPACITY = 512  # positions that a cache starts with, if more may be needed later


@dataclass(frozen=True)
class TokenStep:
    """One time step of a batch.

    Attributes:
      token: int [B].
      logprob: natural log-probability of each token under the model, before sampling settings, [B].
      live: whether each token counts; False for rows that have ended, [B].
      last: whether each token ends its row, [B].
    """

    token: np.ndarray
    logprob: np.ndarray
    live: np.ndarray
    last: np.ndarray


def generate_tokens(model: Decoder, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[int]]:
    """Returns the new tokens of each prompt, the end token included.

    Args:
      model: the model.
      prompts: token ids of each prompt.
      **options: see `GenerationOptions`.

    Raises:
      InputError: as in `generate_steps`.
    """
    rows: list[list[int]] = [[] for _ in prompts]
    for step in generate_steps(model, prompts, **options):
        for row, token, live in zip(rows, step.token.tolist(), step.live.tolist(), strict=True):
            if live:
                row.append(token)
    return rows


def generate_steps(model: Decoder, prompts: Sequence[Sequence[int]], **options: Any) -> Iterator[TokenStep]:
    """Generates tokens for a batch of prompts of any lengths; yields one time step after the other.

    A row ends with an end token, after `max_new_tokens`, or at the model's maximum length. Row r draws from the seed
    and r, so the first row is the same in any batch.

    At each step a `prompt_cache` holds all tokens that were processed so far. They may include tokens of later steps,
    which the next prompt drops. Once a sliding window has begun to overwrite positions they do not, because dropping a
    token would not restore the position that it has overwritten.

    Args:
      model: the model.
      prompts: token ids of each prompt.
      **options: see `GenerationOptions`.

    Raises:
      InputError: there are no prompts, a prompt is empty or as long as the model's maximum length, a token is outside
        the vocabulary, an option is invalid, or the `prompt_cache` belongs to another model, to other settings, or is
        given for several prompts.
    """
    rows = check_prompts(model, prompts)
    checked = GenerationOptions.of(**options)
    on_mesh = mesh_context(model)
    finished = np.zeros(len(rows), bool)
    generated = 1
    steps = 1
    with on_mesh():  # never held across a yield, where it would be the caller's context too
        session = _prompt_session(model, rows, checked)
        run = _prepare(model, rows, checked, session.shared)
        state, output = _prefill(model, run, session)
    while True:
        new = list(_time_steps(output))
        session.store(state.cache, [int(step.token[0]) for step in new])
        for step in new:
            finished |= step.last
            yield step
        if finished.all():
            return
        with on_mesh():
            length = max(map(len, rows)) + generated - 1 + steps
            steps = session.resume(state.cache, steps, length)
            state = replace(state, cache=_with_capacity(state.cache, length, run.max_capacity))
            state, output = decode(model, state, run.sampler, run.limits, jnp.int32(steps))
        generated += steps
        steps = min(2 * steps, DECODE_CHUNK)  # short chunks first: the first tokens arrive at once


def eos_token_ids(model: Decoder, option: int | Sequence[int] | None) -> tuple[int, ...]:
    """Returns the token ids that end a row: those of the option, or else the model's own."""
    if option is None:
        return model.config.eos_token_ids
    checked = GenerationOptions.of(eos_token_id=option).eos_token_id
    return tuple(checked)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class _Run:
    """What one generation consists of.

    Attributes:
      sampler: the sampling settings.
      limits: what ends a row.
      keys: random key of each row, [B].
      seen: tokens that each prompt has, bool [B V]; None without a repetition penalty.
      chunks: right-padded chunks of the prompts, without what a prompt cache holds, each int32 [B T].
      lengths: lengths of the prompts, int32 [B].
      capacity: capacity of the cache at first.
      max_capacity: capacity of the cache that the longest row may need.
      cache_dtype: dtype of the cache; None for the model's.
    """

    sampler: Sampler
    limits: Limits
    keys: jax.Array
    seen: np.ndarray | None
    chunks: list[np.ndarray]
    lengths: np.ndarray
    capacity: int
    max_capacity: int
    cache_dtype: Any


def _prepare(model: Decoder, rows: Sequence[np.ndarray], options: GenerationOptions, shared: int) -> _Run:
    seed = options.seed
    if seed is None:
        seed = broadcast(partial(secrets.randbits, 32))
    key = jax.random.key(np.uint32(seed))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(rows)))
    lengths = np.array([len(row) for row in rows], np.int32)
    max_length = int(min(model.config.max_length, 2**31 - 1))
    new_tokens = np.minimum(options.max_new_tokens, max_length - lengths)
    eos = eos_token_ids(model, options.eos_token_id)
    limits = Limits(jnp.asarray([*eos, -1], jnp.int32), jnp.asarray(new_tokens))
    sampler = Sampler.of(options)
    seen = None
    if sampler.repetition_penalty is not None:
        seen = seen_tokens(rows, model.config.vocab_size)
    chunks = list(prompt_chunks(rows, shared, options.prefill_chunk_size))
    end = shared + sum(chunk.shape[1] for chunk in chunks)
    max_capacity = bucket(max(end, int((lengths + new_tokens).max())), least=64)
    capacity = bucket(max(end, int(lengths.max()) + DECODE_CHUNK), least=64)
    capacity = min(max_capacity, max(INITIAL_CAPACITY, capacity))
    return _Run(sampler, limits, keys, seen, chunks, lengths, capacity, max_capacity, _cache_dtype(options))


def _prompt_session(
    model: Decoder, rows: Sequence[np.ndarray], options: GenerationOptions
) -> PromptCacheSession | NoPromptCache:
    if options.prompt_cache is None:
        return NoPromptCache()
    if not isinstance(options.prompt_cache, PromptCache):
        raise InputError("prompt_cache: must be a PromptCache")
    if len(rows) > 1:
        raise InputError(f"prompt_cache: stores one prompt, not {len(rows)}")
    return PromptCacheSession(options.prompt_cache, model, rows[0].tolist(), _cache_dtype(options))


def _cache_dtype(options: GenerationOptions) -> Any:
    if options.cache_dtype is None:
        return None
    return DTYPES[options.cache_dtype]


def _prefill(model: Decoder, run: _Run, session: PromptCacheSession | NoPromptCache) -> tuple[DecodeState, StepOutput]:
    """Processes the prompts, except for the prefix that a prompt cache holds, and samples each row's first token."""
    cache = session.cache
    if cache is None:
        cache = new_cache(model, len(run.lengths), run.capacity, run.cache_dtype)
    cache = _with_capacity(cache, run.capacity, run.max_capacity)
    last = None
    for chunk in run.chunks[:-1]:
        cache, last = prefill_chunk(model, cache, last, chunk, run.lengths)
    return prefill(model, cache, last, run.chunks[-1], run.lengths, run.seen, run.keys, run.sampler, run.limits)


def _with_capacity(cache: Cache, length: int, max_capacity: int) -> Cache:
    """Returns a cache for rows of `length`; one that is too small is at least doubled."""
    if length <= cache.capacity or cache.capacity >= max_capacity:
        return cache
    return resize_cache(cache, min(max(2 * int(cache.capacity), bucket(length, least=64)), max_capacity))


def _time_steps(output: StepOutput) -> Iterator[TokenStep]:
    """Yields the time steps of a program's output in which some row is live."""
    arrays = jax.device_get(output)
    for step in range(arrays.live.shape[1]):
        if arrays.live[:, step].any():
            yield TokenStep(*(array[:, step] for array in arrays))
