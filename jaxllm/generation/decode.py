"""Prefill and decode: the two compiled programs of generation, over one typed state."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxllm.cache import Cache
from jaxllm.models.decoder import Decoder
from jaxllm.sampling import Sampler


class Limits(NamedTuple):
    """What ends a row: token ids, int32 [E], and how many tokens it may get, int32 [B]."""

    eos: jax.Array
    tokens: jax.Array


class Emitted(NamedTuple):
    """Sampled tokens [B n] with their log-probabilities under the model, and which of them count."""

    token: jax.Array
    logprob: jax.Array
    live: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """A batch in the middle of its generation.

    `token` [B] is sampled but not yet in the cache; `seen` [B V] is kept for the repetition penalty only.
    """

    cache: Cache
    token: jax.Array
    finished: jax.Array
    seen: jax.Array | None
    keys: jax.Array
    count: jax.Array


@partial(jax.jit, static_argnames="capacity")
def prefill(
    model: Decoder,
    tokens: jax.Array,
    lengths: jax.Array,
    keys: jax.Array,
    sampler: Sampler,
    limits: Limits,
    capacity: int,
) -> tuple[State, Emitted]:
    """Reads right-padded prompts [B T] into a new cache of `capacity` positions and samples a first token."""
    batch, time = tokens.shape
    states, cache = model.hidden(tokens, lengths, Cache.empty(model.config, batch, capacity, model.dtype))
    seen = None
    if sampler.repetition_penalty is not None:
        rows, real = jnp.arange(batch)[:, None], jnp.arange(time) < lengths[:, None]
        seen = jnp.zeros((batch, model.config.vocab_size), bool).at[rows, tokens].max(real)
    state = State(cache, tokens[:, 0], jnp.zeros(batch, bool), seen, keys, jnp.int32(0))
    last = jnp.take_along_axis(states, (lengths - 1)[:, None, None], axis=1)
    return _sample(model, state, last, sampler, limits)


@partial(jax.jit, static_argnames="steps", donate_argnames="state")
def decode(model: Decoder, state: State, sampler: Sampler, limits: Limits, steps: int) -> tuple[State, Emitted]:
    """Up to `steps` further tokens of each row, in one program; it stops early when every row has ended."""
    batch = state.token.shape[0]
    emitted = Emitted(
        jnp.zeros((batch, steps), jnp.int32), jnp.zeros((batch, steps), jnp.float32), jnp.zeros((batch, steps), bool)
    )

    def unfinished(carry):
        step, state, _ = carry
        return (step < steps) & ~state.finished.all()

    def advance(carry):
        step, state, emitted = carry
        states, cache = model.hidden(state.token[:, None], cache=state.cache)
        state = State(cache, state.token, state.finished, state.seen, state.keys, state.count)
        state, new = _sample(model, state, states, sampler, limits)
        write = partial(jax.lax.dynamic_update_slice_in_dim, start_index=step, axis=1)
        return step + 1, state, jax.tree.map(write, emitted, new)

    _, state, emitted = jax.lax.while_loop(unfinished, advance, (jnp.int32(0), state, emitted))
    return state, emitted


def _sample(model: Decoder, state: State, x: jax.Array, sampler: Sampler, limits: Limits) -> tuple[State, Emitted]:
    """The token that follows the last states [B 1 D], and what it does to the state."""
    logits = model.logits(x[:, -1])
    token = sampler.next_token(logits, state.seen, jax.vmap(jax.random.fold_in, (0, None))(state.keys, state.count))
    logprob = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], axis=-1).astype(jnp.float32)
    emitted = Emitted(token[:, None], logprob, ~state.finished[:, None])
    count = state.count + 1
    finished = state.finished | (token[:, None] == limits.eos).any(axis=-1) | (count >= limits.tokens)
    seen = None if state.seen is None else state.seen.at[jnp.arange(len(token)), token].set(True)
    return State(state.cache, token, finished, seen, state.keys, count), emitted
