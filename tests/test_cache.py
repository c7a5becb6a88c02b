"""Caches of every kind give what no cache gives: windows as rings, prompts in chunks, eight bits within rounding."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxllm
from conversion import convert
from jaxllm.cache import CallContext, KVCache, RotatingKVCache
from jaxllm.checkpoint import restore
from jaxllm.errors import InputError
from tests import quick

CASES = {
    "full": "llama",
    "ring": "mistral",
    "alternating": "gemma2",
    "sinks": "gpt_oss",
    "latent": "deepseek_v3",
    "alibi": "bloom",
    "turning": "phi3-crossing",
}


@pytest.fixture(scope="module")
def models(checkpoint_of, tmp_path_factory):
    kept = {}

    def model(kind: str):
        if kind not in kept:
            native = convert(checkpoint_of(CASES[kind]), tmp_path_factory.mktemp(kind) / "native")
            kept[kind] = restore(native)
        return kept[kind]

    return model


hidden = quick.jit(lambda model, *args: model.hidden(*args))


def tokens_for(model, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, model.config.vocab_size, shape, np.int32)


@pytest.mark.parametrize("kind", CASES)
def test_reading_in_chunks(kind, models):
    """Rows of unequal lengths, in chunks longer and shorter than a window and token by token: the states of one go."""
    model, lengths = models(kind), np.array([33, 17], np.int32)
    tokens = tokens_for(model, 2, 33)
    whole = np.asarray(
        quick.jit(lambda model, tokens, lengths: model.hidden(tokens, lengths)[0])(model, tokens, lengths)
    )
    for cuts in ([8, 16, 24, 32], [1, 2, 3, 20, 21, 22]):
        cache, begun = model.new_cache(2, 40), 0
        for part in np.split(tokens, cuts, axis=1):
            added = np.clip(lengths - begun, 0, part.shape[1])
            x, cache = hidden(model, part, added, cache, lengths)
            for row, count in enumerate(added):
                expected = whole[row, begun : begun + count]
                np.testing.assert_allclose(x[row, :count], expected, rtol=0, atol=2e-5 * np.abs(whole).max())
            begun += part.shape[1]
        np.testing.assert_array_equal(cache.lengths, lengths)


def test_a_window_keeps_no_more_than_its_width(models):
    model = models("alternating")
    widths = {block.attention.window for block in model.config.layers.blocks}
    entries = model.new_cache(1, 4096).layers
    assert {(type(entry), entry.size) for entry in entries} == {
        (KVCache, 4096) if width is None else (RotatingKVCache, width) for width in widths
    }
    assert model.new_cache(1, 4096).capacity == 4096
    assert models("ring").new_cache(1, 4096).capacity == float("inf")


def test_a_ring_grows_up_to_its_window():
    """And holds at each size what a full cache holds of the last positions, whatever is appended, and by how much."""
    random, window = np.random.default_rng(0), 6
    full = KVCache.new(2, 1, 40, (1, 1), jnp.float32)
    ring, starts = RotatingKVCache.new(KVCache.new(2, 1, 3, (1, 1), jnp.float32), window), np.zeros(2, np.int32)
    assert ring.capacity == 3
    for added in ([3, 1], [1, 1], [0, 1], [7, 2], [2, 9], [1, 0], [0, 0], [20, 4]):
        time, added = max(*added, 1), np.array(added, np.int32)
        if (starts + time).max() > ring.capacity:
            ring = ring.resize(int((starts + time).max()))
        new = jnp.asarray(random.standard_normal((2, time, 1, 1)), jnp.float32)
        span = CallContext(jnp.asarray(starts), jnp.asarray(starts + added), jnp.asarray(starts + added))
        (full, _), (ring, _) = full.append(span, new, new), ring.append(span, new, new)
        starts += added
        for row, length in enumerate(starts):
            last = np.arange(max(0, length - ring.size), length)
            np.testing.assert_array_equal(
                np.asarray(ring.key)[row, 0, last % ring.size], np.asarray(full.key)[row, 0, last]
            )
    assert ring.size == window


@pytest.mark.parametrize("dtype", ["int8", "fp8"])
@pytest.mark.parametrize("kind", ["full", "ring", "latent"])
def test_eight_bits(kind, dtype, models, quick_generation):
    """A fraction of the bytes, and states within what rounding keys and values comes to; greedy tokens mostly agree."""
    model = models(kind)
    tokens, kept = tokens_for(model, 2, 24), {"int8": jnp.int8, "fp8": jnp.float8_e4m3fn}[dtype]
    sizes, states = [], []
    for given in (None, kept):
        cache = model.new_cache(2, 32, given)
        sizes.append(sum(leaf.nbytes for leaf in jax.tree.leaves(cache.layers)))
        _, cache = hidden(model, tokens[:, :16], None, cache)
        states.append(np.asarray(hidden(model, tokens[:, 16:], None, cache)[0]))
    assert sizes[1] < 0.5 * sizes[0]
    difference = np.abs(states[1] - states[0]).mean() / np.abs(states[0]).mean()  # a router may send a token elsewhere
    assert 0 < difference < {"int8": 0.05, "fp8": 0.08}[dtype]
    found = jaxllm.generate_tokens(model, tokens.tolist(), max_new_tokens=4, cache_dtype=dtype)
    assert [len(row) for row in found] == [4, 4]


@pytest.mark.parametrize("kind", ["full", "ring", "latent"])
def test_generation_reads_a_prompt_in_chunks(kind, models, quick_generation):
    model = models(kind)
    prompts = [row[:n].tolist() for row, n in zip(tokens_for(model, 3, 45), (45, 7, 20), strict=True)]
    options = {"max_new_tokens": 6, "repetition_penalty": 1.3}
    expected = jaxllm.generate_tokens(model, prompts, **options)
    for size in (16, 20):
        assert jaxllm.generate_tokens(model, prompts, prefill_chunk_size=size, **options) == expected
    with pytest.raises(InputError, match="prefill_chunk_size=0"):
        jaxllm.generate_tokens(model, prompts, prefill_chunk_size=0)
    mistaken: Any = ("int4", ["int8"])
    for wrong in mistaken:
        with pytest.raises(InputError, match=r"cache_dtype=.*: must be 'int8' or 'fp8'"):
            jaxllm.generate_tokens(model, prompts, cache_dtype=wrong)


def test_alibi_has_no_end(models, quick_generation):
    """A row may be longer than what the model was trained on; others stop there."""
    model, prompt = models("alibi"), [1, 2, 3, 4, 5, 6]
    model.config = replace(model.config, max_position_embeddings=6)
    assert len(jaxllm.generate_tokens(model, [prompt], max_new_tokens=5)[0]) == 5
    other = models("full")
    limit = other.config.max_position_embeddings
    with pytest.raises(InputError, match=f"fewer than the model.s maximum of {limit}"):
        jaxllm.generate_tokens(other, [[1] * limit], max_new_tokens=5)
