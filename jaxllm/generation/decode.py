"""The compiled programs of generation: prefill and decode."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxllm.cache import Cache
from jaxllm.generation.sampling import Sampler
from jaxllm.models.decoder import Decoder
from jaxllm.sharding import mesh_of, replicate

DECODE_CHUNK = 16  # number of tokens that one call of `decode` generates at most


def bucket(size: int, least: int) -> int:
    """Rounds a size up to one of those that programs are compiled for: four per octave, and at least `least`."""
    if size <= least:
        return least
    quarter = max(1 << (size - 1).bit_length() >> 3, 1)
    return -(-size // quarter) * quarter


def mesh_context(model: Decoder) -> Callable[[], AbstractContextManager]:
    """Returns a function that creates a context of the mesh that the model's weights are on."""
    mesh = mesh_of(model)
    if mesh is None:
        return nullcontext
    return partial(jax.set_mesh, mesh)


class Limits(NamedTuple):
    """What ends a row.

    Attributes:
      eos: token ids that end any row, int32 [E].
      tokens: number of tokens that each row may generate, int32 [B].
    """

    eos: jax.Array
    tokens: jax.Array


class StepOutput(NamedTuple):
    """Generated tokens. All arrays are whole on every device, so that every process can read them.

    Attributes:
      token: int32 [B n].
      logprob: log-probability of each token under the model, float32 [B n].
      live: whether the row had not ended before the token, bool [B n].
      last: whether the token ends its row, bool [B n].
    """

    token: jax.Array
    logprob: jax.Array
    live: jax.Array
    last: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DecodeState:
    """A batch during generation.

    Attributes:
      cache: keys and values of all tokens but the last.
      token: last token of each row, which is not in the cache yet, int32 [B].
      finished: whether each row has ended, bool [B].
      seen: tokens that each row already has, bool [B V]; None without a repetition penalty.
      keys: random key of each row, [B].
      count: number of generated tokens of each row, int32.
    """

    cache: Cache
    token: jax.Array
    finished: jax.Array
    seen: jax.Array | None
    keys: jax.Array
    count: jax.Array


@partial(jax.jit, static_argnames=("batch", "capacity", "dtype"))
def new_cache(model: Decoder, batch: int, capacity: int, dtype: Any = None) -> Cache:
    """Creates an empty cache for `batch` rows of up to `capacity` positions, by default in the model's dtype."""
    return model.new_cache(batch, capacity, dtype)


@partial(jax.jit, donate_argnames="cache")
def prefill_chunk(
    model: Decoder, cache: Cache, last: jax.Array | None, tokens: jax.Array, lengths: jax.Array
) -> tuple[Cache, jax.Array]:
    """Processes the next chunk of right-padded prompts.

    Args:
      model: the model.
      cache: cache of the previous chunks.
      last: result of the previous chunk; None before the first.
      tokens: token ids of this chunk, int32 [B T].
      lengths: lengths of the whole prompts, int32 [B].

    Returns:
      The updated cache, and the hidden state of each row's last token [B 1 D], if this or a previous chunk has it.
    """
    start = jnp.zeros_like(lengths) if cache.lengths is None else cache.lengths
    chunk = tokens.shape[1]
    states, cache = model.hidden(tokens, jnp.clip(lengths - start, 0, chunk), cache, lengths)
    index = (lengths - 1 - start)[:, None, None]
    found = jnp.take_along_axis(states, jnp.clip(index, 0, chunk - 1), axis=1)
    if last is not None:
        found = jnp.where(index >= 0, found, last)
    return cache, found


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
) -> tuple[DecodeState, StepOutput]:
    """Processes the last chunk of the prompts (see `prefill_chunk`), and samples each row's first token."""
    cache, states = prefill_chunk(model, cache, last, tokens, lengths)
    finished = jnp.zeros(len(tokens), bool)
    state = DecodeState(cache, tokens[:, 0], finished, seen, keys, jnp.int32(0))
    state, output = _sample(model, state, states, sampler, limits)
    return state, replicate(output)


@partial(jax.jit, donate_argnames="state")
def decode(
    model: Decoder, state: DecodeState, sampler: Sampler, limits: Limits, steps: jax.Array
) -> tuple[DecodeState, StepOutput]:
    """Generates up to `steps` (at most `DECODE_CHUNK`) tokens of each row; stops early once every row has ended."""
    shape = (len(state.token), DECODE_CHUNK)
    empty = StepOutput(
        jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32), jnp.zeros(shape, bool), jnp.zeros(shape, bool)
    )

    def is_unfinished(carry):
        step, state, _ = carry
        return (step < steps) & ~state.finished.all()

    def decode_one(carry):
        step, state, outputs = carry
        states, cache = model.hidden(state.token[:, None], cache=state.cache)
        state, output = _sample(model, replace(state, cache=cache), states, sampler, limits)
        write = partial(jax.lax.dynamic_update_slice_in_dim, start_index=step, axis=1)
        return step + 1, state, jax.tree.map(write, outputs, output)

    _, state, outputs = jax.lax.while_loop(is_unfinished, decode_one, (jnp.int32(0), state, empty))
    return state, replicate(outputs)


@partial(jax.jit, static_argnames="capacity")  # a cache that grows cannot be updated in place
def resize_cache(cache: Cache, capacity: int) -> Cache:
    """Returns the cache with room for `capacity` positions."""
    return cache.resize(capacity)


def _sample(
    model: Decoder, state: DecodeState, x: jax.Array, sampler: Sampler, limits: Limits
) -> tuple[DecodeState, StepOutput]:
    """Samples the token that follows the hidden states [B 1 D], and updates the state."""
    logits = model.logits(x[:, -1])
    keys = jax.vmap(jax.random.fold_in, (0, None))(state.keys, state.count)
    token = sampler.next_token(logits, state.seen, keys)
    logprob = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], axis=-1).astype(jnp.float32)
    count = state.count + 1
    live = ~state.finished
    ends = (token[:, None] == limits.eos).any(axis=-1) | (count >= limits.tokens)
    seen = state.seen
    if seen is not None:
        seen = seen.at[jnp.arange(len(token)), token].set(True)
    output = StepOutput(token[:, None], logprob, live[:, None], (live & ends)[:, None])
    return DecodeState(state.cache, token, state.finished | ends, seen, state.keys, count), output
