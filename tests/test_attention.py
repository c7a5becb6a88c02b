"""Attention in blocks is attention, and its memory grows with the number of queries, not with the square."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.kernels.attention import BLOCK, attention, blocked, reference


def inputs(batch, queries, keys, heads, kv_heads, head_dim) -> tuple[jax.Array, jax.Array, jax.Array]:
    random = np.random.default_rng(0)

    def draw(length: int, heads: int) -> jax.Array:
        return jnp.asarray(random.standard_normal((batch, length, heads, head_dim)), jnp.float32)

    return draw(queries, heads), draw(keys, kv_heads), draw(keys, kv_heads)


@pytest.mark.parametrize("window", [None, 7, 600])
def test_blocked_equals_reference(window):
    queries = 2 * BLOCK + 3
    arrays = inputs(2, queries, queries + 10, 4, 2, 8)
    settings = (jnp.array([0, 10], jnp.int32), 0.3, window)
    np.testing.assert_allclose(blocked(*arrays, *settings), reference(*arrays, *settings), rtol=0, atol=2e-6)


def test_reference_by_hand():
    arrays = inputs(1, 3, 6, 2, 1, 4)
    found = reference(*arrays, jnp.array([2]), 0.5, window=2)
    query, key, value = (np.asarray(array) for array in arrays)
    for t in range(3):
        seen = slice(t + 1, t + 3)  # the query at position t + 2 and the key before it
        for head in range(2):
            weights = np.exp(0.5 * key[0, seen, 0] @ query[0, t, head])
            np.testing.assert_allclose(found[0, t, head], weights @ value[0, seen, 0] / weights.sum(), rtol=1e-5)


def test_memory_is_linear_in_the_queries():
    def temporary(length):
        arrays = [jax.ShapeDtypeStruct((1, length, 4, 16), jnp.float32)] * 3
        program = jax.jit(partial(attention, offsets=jnp.zeros(1, jnp.int32), scale=1.0))
        memory = program.lower(*arrays).compile().memory_analysis()
        return memory.temp_size_in_bytes if memory else 0

    assert 0 < temporary(8192) < 2.2 * temporary(4096)
    assert temporary(8192) < 4 * 4 * 8192 * 8192 / 4  # a quarter of one head's worth of scores, for all heads


@pytest.mark.parametrize("window", [None, 7, 600])
def test_gradients_of_both_agree(window):
    """Of query, key and value; the last block is all padding but for one query."""
    arrays = inputs(1, BLOCK + 1, BLOCK + 1, 2, 2, 4)
    settings = (jnp.zeros(1, jnp.int32), 0.5, window)
    found, expected = (jax.grad(lambda arrays, f=f: f(*arrays, *settings).var())(arrays) for f in (blocked, reference))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)
