"""Attention in blocks is attention, with every feature, and its memory does not grow with the square."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxllm import config
from jaxllm.cache import Span
from jaxllm.kernels.attention import BLOCK, Inputs, Scores, attention, blocked, reference
from jaxllm.nn.parameter import Init, build
from tests import quick

FEATURES = {
    "plain": Scores(0.3),
    "window": Scores(0.3, window=7),
    "wide window": Scores(0.3, window=600),
    "chunk": Scores(0.3, chunk=100),
    "soft cap": Scores(3.0, softcap=2.0),
    "alibi": Scores(0.3, alibi=config.Alibi((0.5, 0.25, 0.1, 0.01), scale=0.7)),
    "rounded alibi": Scores(0.3, alibi=config.Alibi((0.5, 0.25, 0.1, 0.01), bfloat16=True)),
}


def inputs(batch, queries, keys, heads, kv_heads, head_dim, offsets, sinks=None) -> Inputs:
    random = np.random.default_rng(0)

    def draw(length: int, heads: int, dim: int) -> jax.Array:
        return jnp.asarray(random.standard_normal((batch, length, heads, dim)), jnp.float32)

    value = draw(keys, kv_heads, head_dim + 2)  # values may be of another size
    return Inputs(
        draw(queries, heads, head_dim), draw(keys, kv_heads, head_dim), value, jnp.array(offsets, jnp.int32), sinks
    )


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("sinks", [None, (0.5, -1.0, 2.0, 0.0)])
def test_blocked_equals_reference(feature, sinks):
    queries = 2 * BLOCK + 3
    arrays = inputs(2, queries, queries + 10, 4, 2, 8, [0, 10], None if sinks is None else jnp.array(sinks))
    scores = FEATURES[feature]
    found, expected = (quick.jit(partial(f, scores=scores))(arrays) for f in (blocked, reference))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("sink", [None, 0.7])
def test_reference_by_hand(sink):
    sinks = None if sink is None else jnp.array([sink, sink])
    arrays = inputs(1, 3, 6, 2, 1, 4, [2], sinks)
    scores = Scores(0.5, window=2, softcap=1.5, alibi=config.Alibi((0.2, 0.3), scale=2.0))
    found = reference(arrays, scores)
    query, key, value = (np.asarray(array) for array in arrays[:3])
    for t in range(3):
        seen = slice(t + 1, t + 3)  # the query at position t + 2 and the key before it
        for head, slope in enumerate((0.2, 0.3)):
            capped = 1.5 * np.tanh(0.5 * key[0, seen, 0] @ query[0, t, head] / 1.5)
            weights = np.exp(capped + 2.0 * slope * np.array([-1, 0]))
            total = weights.sum() + (0 if sink is None else np.exp(sink))
            np.testing.assert_allclose(found[0, t, head], weights @ value[0, seen, 0] / total, rtol=1e-5)


def test_chunks_see_nothing_of_the_one_before():
    arrays = inputs(1, 9, 9, 1, 1, 4, [0])
    whole, alone = (
        reference(arrays, Scores(0.5, chunk=4)),
        reference(
            inputs(1, 9, 9, 1, 1, 4, [0])._replace(
                **{name: getattr(arrays, name)[:, 4:8] for name in ("query", "key", "value")}
            ),
            Scores(0.5),
        ),
    )
    np.testing.assert_allclose(whole[:, 4:8], alone, rtol=0, atol=1e-6)


def test_memory_is_linear_in_the_queries():
    def temporary(length):
        arrays = [jax.ShapeDtypeStruct((1, length, 4, 16), jnp.float32)] * 3
        program = jax.jit(partial(attention, offsets=jnp.zeros(1, jnp.int32), scores=Scores(1.0)))
        memory = program.lower(*arrays).compile().memory_analysis()
        return memory.temp_size_in_bytes if memory else 0

    assert 0 < temporary(8192) < 2.2 * temporary(4096)
    assert temporary(8192) < 4 * 4 * 8192 * 8192 / 4  # a quarter of one head's worth of scores, for all heads


@pytest.mark.parametrize("feature", FEATURES)
def test_gradients_of_both_agree(feature):
    """Of query, key, value and sinks; the last block is all padding but for one query."""
    arrays = inputs(1, BLOCK + 1, BLOCK + 1, 4, 2, 4, [0], jnp.array([0.5, -1.0, 2.0, 0.0]))

    def variance(floats, f):
        return f(arrays._replace(**floats), FEATURES[feature]).var()

    floats = {name: getattr(arrays, name) for name in ("query", "key", "value", "sinks")}
    found, expected = (quick.jit(jax.grad(partial(variance, f=f)))(floats) for f in (blocked, reference))
    for name in floats:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-8)


def test_few_queries_of_latents_in_bfloat16():
    """The dtype that published weights come in."""
    part = config.LatentAttention(4, 8, 4, 8, 16, None, config.RMSNorm(1e-6), 0.3, config.Rotary(10000.0))
    layer = build(Init(nnx.Rngs(0), jnp.dtype(jnp.bfloat16)), part, 32)
    apply = jax.jit(lambda layer, x: layer(x, Span(jnp.zeros(2, int), jnp.ones(2, int)))[0].astype(jnp.float32))
    x = np.random.default_rng(0).standard_normal((2, 1, 32), np.float32)
    expected = np.asarray(apply(jax.tree.map(jnp.float32, layer), x))
    found = apply(layer, jnp.asarray(x, jnp.bfloat16))
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.05 * np.abs(expected).max())
