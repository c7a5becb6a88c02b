"""Prefill and decode: the compiled programs of generation, over one typed state."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxllm.cache import Cache
from jaxllm.models.decoder import Decoder
from jaxllm.sampling import Sampler
from jaxllm.sharding import mesh_of, replicate

CHUNK = 16  # the most tokens that one call decodes


def bucket(size: int, least: int) -> int:
    """The next of the sizes that programs are compiled for: four to an octave, at least `least`."""
    if size <= least:
        return least
    quarter = max(1 << (size - 1).bit_length() >> 3, 1)
    return -(-size // quarter) * quarter


def on_mesh_of(model: Decoder) -> Callable[[], AbstractContextManager]:
    """Makes contexts for the mesh that the weights live on."""
    mesh = mesh_of(model)

    def context() -> AbstractContextManager:
        return nullcontext() if mesh is None else jax.set_mesh(mesh)

    return context


class Limits(NamedTuple):
    """What ends a row: token ids, int32 [E], and how many tokens it may get, int32 [B]."""

    eos: jax.Array
    tokens: jax.Array


class Emitted(NamedTuple):
    """Sampled tokens [B n], their log-probabilities under the model, which of them count, and which ended a row.

    What a step returns is whole on every device, for every process to read.
    """

    token: jax.Array
    logprob: jax.Array
    live: jax.Array
    last: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """A batch in the middle of its generation.

    `token` [B] is sampled but not yet in the cache; `seen` [B V] is kept for the repetition penalty only; `keys` are
    the rows' random keys [B], and `count` the tokens that each has.
    """

    cache: Cache
    token: jax.Array
    finished: jax.Array
    seen: jax.Array | None
    keys: jax.Array
    count: jax.Array


@partial(jax.jit, static_argnames=("batch", "capacity", "dtype"))
def begin(model: Decoder, batch: int, capacity: int, dtype: Any = None) -> Cache:
    """An empty cache for `batch` rows of up to `capacity` positions, kept in a dtype or the model's."""
    return model.new_cache(batch, capacity, dtype)


@partial(jax.jit, donate_argnames="cache")
def read(
    model: Decoder, cache: Cache, last: jax.Array | None, tokens: jax.Array, lengths: jax.Array
) -> tuple[Cache, jax.Array]:
    """Reads the next T of right-padded prompts into a cache; tokens [B T].

    `lengths`, int32 [B], are those of the rows with all of their prompts. `last` [B 1 D] is what the last token of
    each came to, as far as that was among those read, None before anything was.
    """
    begun = jnp.zeros_like(lengths) if cache.lengths is None else cache.lengths
    states, cache = model.hidden(tokens, jnp.clip(lengths - begun, 0, tokens.shape[1]), cache, lengths)
    at = (lengths - 1 - begun)[:, None, None]
    found = jnp.take_along_axis(states, jnp.clip(at, 0, tokens.shape[1] - 1), axis=1)
    return cache, found if last is None else jnp.where(at >= 0, found, last)


@partial(jax.jit, donate_argnames="cache")
def prefill(
    model: Decoder,
    cache: Cache,
    last: jax.Array | None,
    tokens: jax.Array,
    lengths: jax.Array,
    seen: jax.Array | None,
    keys: jax.Array,
    sampler: Sampler,
    limits: Limits,
) -> tuple[State, Emitted]:
    """Reads what is left of the prompts, and samples a first token; the rest is as in `read` and `State`."""
    cache, found = read(model, cache, last, tokens, lengths)
    state = State(cache, tokens[:, 0], jnp.zeros(len(tokens), bool), seen, keys, jnp.int32(0))
    state, emitted = _sample(model, state, found, sampler, limits)
    return state, replicate(emitted)


@partial(jax.jit, donate_argnames="state")
def decode(model: Decoder, state: State, sampler: Sampler, limits: Limits, steps: jax.Array) -> tuple[State, Emitted]:
    """Up to `steps` (at most CHUNK) further tokens of each row; it stops early when every row has ended."""
    shape = len(state.token), CHUNK
    nothing = Emitted(
        jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32), jnp.zeros(shape, bool), jnp.zeros(shape, bool)
    )

    def unfinished(carry):
        step, state, _ = carry
        return (step < steps) & ~state.finished.all()

    def advance(carry):
        step, state, emitted = carry
        states, cache = model.hidden(state.token[:, None], cache=state.cache)
        state, new = _sample(model, replace(state, cache=cache), states, sampler, limits)
        write = partial(jax.lax.dynamic_update_slice_in_dim, start_index=step, axis=1)
        return step + 1, state, jax.tree.map(write, emitted, new)

    _, state, emitted = jax.lax.while_loop(unfinished, advance, (jnp.int32(0), state, nothing))
    return state, replicate(emitted)


@partial(jax.jit, static_argnames="capacity")  # what grows cannot be written in place
def grow(cache: Cache, capacity: int) -> Cache:
    """The same cache with room for `capacity` positions."""
    return cache.grown(capacity)


def _sample(model: Decoder, state: State, x: jax.Array, sampler: Sampler, limits: Limits) -> tuple[State, Emitted]:
    """The token that follows the last states [B 1 D], and what it does to the state."""
    logits = model.logits(x[:, -1])
    token = sampler.next_token(logits, state.seen, jax.vmap(jax.random.fold_in, (0, None))(state.keys, state.count))
    logprob = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], axis=-1)
    count, live = state.count + 1, ~state.finished
    ends = (token[:, None] == limits.eos).any(axis=-1) | (count >= limits.tokens)
    seen = None if state.seen is None else state.seen.at[jnp.arange(len(token)), token].set(True)
    emitted = Emitted(token[:, None], logprob.astype(jnp.float32), live[:, None], (live & ends)[:, None])
    return State(state.cache, token, state.finished | ends, seen, state.keys, count), emitted
