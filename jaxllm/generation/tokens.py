"""Generation on token ids: batches of prompts in, tokens out, a chunk of compiled steps at a time."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.errors import InputError
from jaxllm.generation.decode import Limits, decode, prefill
from jaxllm.models.decoder import Decoder
from jaxllm.sampling import Sampler
from jaxllm.sharding import mesh_of

CHUNK = 16  # tokens decoded between two looks from the host


@dataclass(frozen=True)
class Step:
    """One time step of a batch: token [B], its log-probability [B], and whether the row was still going [B]."""

    token: np.ndarray
    logprob: np.ndarray
    live: np.ndarray


def generate_tokens(
    model: Decoder, prompts: Sequence[Sequence[int]], max_new_tokens: int = 256, **options: Any
) -> list[list[int]]:
    """The new tokens of each prompt, the one that ended it included; options as in `steps`."""
    rows: list[list[int]] = [[] for _ in prompts]
    for step in steps(model, prompts, max_new_tokens, **options):
        for row, token, live in zip(rows, step.token.tolist(), step.live.tolist(), strict=True):
            if live:
                row.append(token)
    return rows


def steps(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int = 256,
    *,
    seed: int | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    **sampling: Any,
) -> Iterator[Step]:
    """Decodes a batch of prompts of any lengths, a time step after the other, until every row has ended.

    A row ends with an end token (`eos_token_id`; the model's own by default, `[]` for none), after
    `max_new_tokens`, or at the model's context. Sampling settings are those of `Sampler.of`; row r draws from
    `seed` and r, so that a prompt's first row is the same in any batch.

    Raises:
        InputError: no prompts, an empty one, one that fills the context, ids outside the vocabulary, bad settings.
    """
    tokens, lengths = _padded(model, prompts)
    limits = _limits(model, lengths, max_new_tokens, eos_token_id)
    sampler, keys = Sampler.of(**sampling), _keys(seed, len(lengths))
    capacity = bucket(int((lengths + limits.tokens).max()), least=64)
    state, emitted = _on_mesh(model, prefill, tokens, lengths, keys, sampler, limits, capacity=capacity)
    yield from _unpacked(emitted)
    while not bool(state.finished.all()):
        state, emitted = _on_mesh(model, decode, state, sampler, limits, steps=CHUNK)
        yield from _unpacked(emitted)


def eos_token_ids(model: Decoder, given: int | Sequence[int] | None) -> tuple[int, ...]:
    """What ends a row: the ids given, or else the model's own."""
    if given is None:
        return model.config.eos_token_ids
    return (given,) if isinstance(given, int) else tuple(given)


def bucket(size: int, least: int) -> int:
    """The next of the sizes that programs are compiled for: four to an octave, at least `least`."""
    if size <= least:
        return least
    quarter = max(1 << (size - 1).bit_length() >> 3, 1)
    return -(-size // quarter) * quarter


def _on_mesh(model: Decoder, program: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls a program under the mesh that the weights live on; never across a yield, where it would leak."""
    mesh = mesh_of(model)
    with jax.set_mesh(mesh) if mesh is not None else nullcontext():
        return program(model, *args, **kwargs)


def _unpacked(emitted: Any) -> Iterator[Step]:
    token, logprob, live = jax.device_get(emitted)
    for at in range(token.shape[1]):
        if live[:, at].any():
            yield Step(token[:, at], logprob[:, at], live[:, at])


def _padded(model: Decoder, prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Prompts as int32 [B T], right-padded with their bucket, and their lengths [B]."""
    if not len(prompts):
        raise InputError("no prompts")
    vocab, context = model.config.vocab_size, model.config.context
    for row, prompt in enumerate(prompts):
        if not len(prompt):
            raise InputError(f"prompt {row} is empty: there is nothing to continue")
        if len(prompt) >= context:
            raise InputError(f"prompt {row} has {len(prompt)} tokens, but the model's context is {context}")
        if any(not 0 <= token < vocab for token in prompt):
            wrong = next(token for token in prompt if not 0 <= token < vocab)
            raise InputError(f"prompt {row}: token {wrong} is outside the model's vocabulary of {vocab}")
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    tokens = np.zeros((len(prompts), bucket(int(lengths.max()), least=16)), np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    return tokens, lengths


def _limits(model: Decoder, lengths: np.ndarray, max_new_tokens: int, eos: int | Sequence[int] | None) -> Limits:
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise InputError(f"max_new_tokens={max_new_tokens!r}: must be a positive whole number")
    room = np.minimum(max_new_tokens, model.config.context - lengths)
    return Limits(jnp.asarray([*eos_token_ids(model, eos), -1], jnp.int32), jnp.asarray(room, jnp.int32))


def _keys(seed: int | None, rows: int) -> jax.Array:
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
        raise InputError(f"seed={seed!r}: must be a whole number")
    key = jax.random.key(secrets.randbits(31) if seed is None else seed)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows))
