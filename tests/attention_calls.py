"""Calls of attention to compare kernels on: arrays that are drawn, every feature, and what being equal means."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from jaxllm.config import ALiBiConfig
from jaxllm.kernels.blocks import BlockSizes
from jaxllm.kernels.spec import MIN_LSE, AttentionInputs, AttentionOutput, AttentionSpec

SMALL = BlockSizes(queries=4, keys=8)
SLOPES = (0.5, 0.25, 0.1, 0.01)


def inputs(batch, queries, keys, heads, kv_heads, head_dim, value_dim=None, dtype=jnp.float32, seed=0, **more) -> Any:
    random = np.random.default_rng(seed)

    def draw(length: int, heads: int, dim: int) -> jax.Array:
        return jnp.asarray(random.standard_normal((batch, length, heads, dim)), dtype)

    value = draw(kv_heads, keys, value_dim or head_dim)
    return AttentionInputs(draw(queries, heads, head_dim), draw(kv_heads, keys, head_dim), value, **more)


@st.composite
def calls(draw) -> tuple[AttentionInputs, AttentionSpec]:
    """Calls of every kind; queries may stand before the first key, behind the last, and see nothing at all."""
    batch, queries, keys = draw(st.integers(1, 3)), draw(st.integers(1, 11)), draw(st.integers(1, 19))
    kv_heads, groups = draw(st.sampled_from([(1, 1), (1, 4), (2, 2), (4, 1)]))

    def some(low: int, high: int) -> Any:
        return draw(st.none() | st.lists(st.integers(low, high), min_size=batch, max_size=batch))

    offsets, lengths = some(-12, 24), some(0, 25)
    heads = kv_heads * groups
    alibi = ALiBiConfig((SLOPES * 2)[:heads], scale=0.7, bfloat16=draw(st.booleans()))
    spec = AttentionSpec(
        scale=draw(st.sampled_from([0.3, 2.0])),
        causal=draw(st.booleans()),
        window=draw(st.none() | st.integers(1, 12)),
        chunk=draw(st.none() | st.integers(1, 9)),
        softcap=draw(st.none() | st.just(1.5)),
        alibi=draw(st.none() | st.just(alibi)),
    )
    given = inputs(
        batch, queries, keys, heads, kv_heads, 8, draw(st.sampled_from([4, 8])), seed=draw(st.integers(0, 99))
    )
    given = given._replace(
        offsets=None if offsets is None else jnp.array(offsets, jnp.int32),
        lengths=None if lengths is None else jnp.array(lengths, jnp.int32),
        sinks=draw(st.none() | st.just(jnp.array((0.5, -1.0, 2.0, 0.0)[:heads]))),
    )
    if draw(st.booleans()):
        given, spec = given._replace(value=None), replace(spec, value_dim=draw(st.sampled_from([4, 8])))
    return given, spec


def assert_equal(found: AttentionOutput, expected: AttentionOutput, bound: float = 2e-6) -> None:
    for one, other in zip(found, expected, strict=True):
        there = np.asarray(expected.lse > MIN_LSE)
        there = there[..., None] if one.ndim > there.ndim else there
        one, other = (np.where(there, np.asarray(x, np.float64), 0) for x in (one, other))
        np.testing.assert_allclose(one, other, rtol=0, atol=bound * max(np.abs(other).max(), 1e-30))
    nothing = np.asarray(expected.lse <= MIN_LSE)
    assert (np.asarray(found.lse) <= MIN_LSE)[nothing].all()
    assert not np.asarray(found.out)[nothing].any()
