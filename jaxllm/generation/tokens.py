"""Generation on token ids: batches of prompts in, tokens out, a chunk of compiled steps at a time."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any, TypedDict, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.checks import whole_number
from jaxllm.distributed import broadcast
from jaxllm.errors import InputError
from jaxllm.generation.decode import CHUNK, Emitted, Limits, State, decode, grow, prefill
from jaxllm.models.decoder import Decoder
from jaxllm.sampling import Sampler
from jaxllm.sharding import mesh_of

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

    Raises:
        InputError: no prompts, an empty one, one that fills the context, ids outside the vocabulary, bad options.
    """
    tokens, lengths = _padded(model, prompts)
    on_mesh, finished, count, size = _mesh_context(model), np.zeros(len(lengths), bool), 1, 1
    with on_mesh():  # never across a yield, where it would be the caller's too
        sampler, limits, keys = _settings(model, lengths, options)
        longest, most = int(lengths.max()), bucket(int((lengths + limits.tokens).max()), least=64)
        capacity = min(most, max(_ROOM, bucket(longest + CHUNK, least=64)))
        state, emitted = prefill(model, tokens, lengths, keys, sampler, limits, capacity=capacity)
    while True:
        for step in _unpacked(emitted):
            finished |= step.last
            yield step
        if finished.all():
            return
        with on_mesh():
            state = _with_room(state, longest + count - 1 + size, most)
            state, emitted = decode(model, state, sampler, limits, jnp.int32(size))
        count, size = count + size, min(2 * size, CHUNK)  # short chunks first: the first words come at once


def bucket(size: int, least: int) -> int:
    """The next of the sizes that programs are compiled for: four to an octave, at least `least`."""
    if size <= least:
        return least
    quarter = max(1 << (size - 1).bit_length() >> 3, 1)
    return -(-size // quarter) * quarter


def eos_token_ids(model: Decoder, given: int | Sequence[int] | None) -> tuple[int, ...]:
    """What ends a row: the ids given, or else the model's own."""
    ids = np.atleast_1d(np.asarray(model.config.eos_token_ids if given is None else given)).tolist()
    return tuple(whole_number("eos_token_id", item, least=-1) for item in ids)


def _with_room(state: State, needed: int, most: int) -> State:
    """The state, its cache doubled if it cannot take `needed` positions: work follows the text, not its limit."""
    capacity = state.cache.capacity
    return state if needed <= capacity or capacity >= most else grow(state, min(2 * capacity, most))


def _mesh_context(model: Decoder) -> Any:
    """Makes contexts for the mesh that the weights live on."""
    mesh = mesh_of(model)

    def context() -> AbstractContextManager:
        return nullcontext() if mesh is None else jax.set_mesh(mesh)

    return context


def _unpacked(emitted: Emitted) -> Iterator[Step]:
    arrays = jax.device_get(emitted)
    for at in range(arrays.live.shape[1]):
        if arrays.live[:, at].any():
            yield Step(*(array[:, at] for array in arrays))


def _padded(model: Decoder, prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Prompts as int32 [B T], right-padded to their bucket, and their lengths [B]."""
    rows = [_row(model, index, prompt) for index, prompt in enumerate(prompts)]
    if not rows:
        raise InputError("no prompts")
    lengths = np.array([len(row) for row in rows], np.int32)
    tokens = np.zeros((len(rows), bucket(int(lengths.max()), least=16)), np.int32)
    for padded, row in zip(tokens, rows, strict=True):
        padded[: len(row)] = row
    return tokens, lengths


def _row(model: Decoder, index: int, prompt: Sequence[int]) -> np.ndarray:
    row, vocab, context = np.asarray(prompt), model.config.vocab_size, model.config.context
    if row.shape == (0,):
        raise InputError(f"prompt {index} is empty: there is nothing to continue")
    if row.ndim != 1 or not np.issubdtype(row.dtype, np.integer):
        raise InputError(f"prompt {index}: must be a sequence of token ids")
    if len(row) >= context:
        raise InputError(f"prompt {index} has {len(row)} tokens, which fills the model's context of {context}")
    if (wrong := row[(row < 0) | (row >= vocab)]).size:
        raise InputError(f"prompt {index}: token {wrong[0]} is outside the model's vocabulary of {vocab}")
    return row


def _settings(model: Decoder, lengths: np.ndarray, options: Options) -> tuple[Sampler, Limits, jax.Array]:
    """Checked options, and a random key per row."""
    for name in options:
        if name not in Options.__annotations__:
            near = get_close_matches(name, Options.__annotations__, n=1)
            raise InputError(f"unknown option {name!r}" + (f"; did you mean {near[0]}?" if near else ""))
    sampling: dict[str, Any] = dict(options)
    count = whole_number("max_new_tokens", sampling.pop("max_new_tokens", 256), least=1)
    eos, seed = eos_token_ids(model, sampling.pop("eos_token_id", None)), sampling.pop("seed", None)
    seed = broadcast(partial(secrets.randbits, 32)) if seed is None else seed
    key = jax.random.key(np.uint32(whole_number("seed", seed, least=0, most=2**32 - 1)))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(lengths)))
    room = np.minimum(count, model.config.context - lengths)
    limits = Limits(jnp.asarray([*eos, -1], jnp.int32), jnp.asarray(room, jnp.int32))
    return Sampler.of(**sampling), limits, keys
