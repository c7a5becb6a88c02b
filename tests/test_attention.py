"""Attention in blocks is attention, with every feature, on one device and on a mesh."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings

import jaxllm
from jaxllm.cache import CacheSpec, CallContext
from jaxllm.cache.quantized_kv import quantize_kv
from jaxllm.config import ALiBiConfig, LatentAttentionConfig, RMSNormConfig, RotaryConfig
from jaxllm.kernels.attention import attention
from jaxllm.kernels.blockwise import blockwise
from jaxllm.kernels.reference import reference
from jaxllm.kernels.spec import AttentionInputs, AttentionOutput, AttentionSpec, merge_partials
from jaxllm.nn import latent_attention
from jaxllm.nn.parameter import ParameterFactory, build
from tests import quick
from tests.attention_calls import SLOPES, SMALL, assert_equal, calls, inputs


@settings(max_examples=50, deadline=None, derandomize=True)
@given(calls())
def test_blockwise_equals_the_reference(call):
    with jax.enable_x64(True):  # exactly: what differs is not rounding
        given, scores = call
        wide = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, given)
        both = quick.jit(lambda wide: (blockwise(wide, scores, SMALL), reference(wide, scores)))
        found, expected = both(wide)
        assert_equal(found, expected, 1e-12)


FEATURES = {
    "plain": AttentionSpec(0.3),
    "not causal": AttentionSpec(0.3, causal=False),
    "window": AttentionSpec(0.3, window=7),
    "wide window": AttentionSpec(0.3, window=600),
    "chunk": AttentionSpec(0.3, chunk=100),
    "soft cap": AttentionSpec(3.0, softcap=2.0),
    "alibi": AttentionSpec(0.3, alibi=ALiBiConfig(SLOPES, scale=0.7)),
    "rounded alibi": AttentionSpec(0.3, alibi=ALiBiConfig(SLOPES, bfloat16=True)),
}
LONG: dict[str, Any] = {"offsets": jnp.array([0, 10], jnp.int32), "lengths": jnp.array([1027, 900], jnp.int32)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("feature", FEATURES)
def test_blockwise_rounds_as_the_reference_does(feature, dtype):
    """float32 within 2e-6 of it; others within twice its own distance from float64."""
    scores = FEATURES[feature]
    given = inputs(2, 517, 1027, 4, 2, 16, 18, dtype, sinks=jnp.array([0.5, -1.0, 2.0, 0.0]), **LONG)
    found, expected = (quick.jit(partial(f, spec=scores))(given) for f in (blockwise, reference))
    if dtype == "float32":
        return assert_equal(found, expected)
    with jax.enable_x64(True):
        floats = given._replace(
            **{name: getattr(given, name).astype(jnp.float64) for name in ("query", "key", "value")}
        )
        exact = np.asarray(quick.jit(partial(reference, spec=scores))(floats).out)
    ours, theirs = (np.abs(np.asarray(x.out, np.float64) - exact).max() for x in (found, expected))
    assert 0 < ours <= 2 * theirs
    return None


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.float8_e4m3fn])
@pytest.mark.parametrize("value_dim", [None, 8])
def test_narrow_keys_and_values(dtype, value_dim):
    """What is kept in eight bits counts as what it stands for, in both."""
    given, spec = inputs(2, 5, 20, 4, 2, 16, offsets=jnp.array([15, 3])), AttentionSpec(0.3, value_dim=value_dim)
    key, value = quantize_kv(given.key, dtype), quantize_kv(given.value if value_dim is None else given.key, dtype)
    wide = [(x.values.astype(jnp.float32) * x.scale[..., None]) for x in (key, value)]
    wide = given._replace(key=wide[0], value=None if value_dim else wide[1])
    kept = given._replace(key=key.values, value=None if value_dim else value.values)
    kept = kept._replace(key_scale=key.scale, value_scale=value.scale)
    for f in (reference, partial(blockwise, blocks=SMALL)):
        assert_equal(f(kept, spec), reference(wide, spec))
    worst = np.abs(wide.key - given.key).max(axis=-1) / np.abs(given.key).max(axis=-1)
    assert 0 < worst.max() <= (0.5 / 127 if dtype == jnp.int8 else 1 / 16) * 1.0001


@pytest.mark.parametrize("sink", [None, 0.7])
def test_reference_by_hand(sink):
    sinks = None if sink is None else jnp.array([sink, sink])
    arrays = inputs(1, 3, 6, 2, 1, 4, offsets=jnp.array([2]), sinks=sinks)
    spec = AttentionSpec(0.5, window=2, softcap=1.5, alibi=ALiBiConfig((0.2, 0.3), scale=2.0))
    found = reference(arrays, spec)
    query, key, value = (np.asarray(array) for array in (arrays.query, arrays.key, arrays.value))
    for t in range(3):
        seen = slice(t + 1, t + 3)  # the query at position t + 2 and the key before it
        for head, slope in enumerate((0.2, 0.3)):
            capped = 1.5 * np.tanh(0.5 * key[0, 0, seen] @ query[0, t, head] / 1.5)
            weights = np.exp(capped + 2.0 * slope * np.array([-1, 0]))
            total = weights.sum() + (0 if sink is None else np.exp(sink))
            np.testing.assert_allclose(found.out[0, t, head], weights @ value[0, 0, seen] / total, rtol=1e-5)
            np.testing.assert_allclose(found.lse[0, t, head], np.log(total), rtol=1e-5)


def test_ranges_of_keys_combine():
    arrays, spec = inputs(2, 5, 20, 4, 2, 8, offsets=jnp.array([15, 3])), AttentionSpec(0.3)
    parts = [
        arrays._replace(
            key=arrays.key[:, :, at : at + 10], value=arrays.value[:, :, at : at + 10], offsets=arrays.offsets - at
        )
        for at in (0, 10)
    ]
    assert_equal(merge_partials(*(reference(part, spec) for part in parts)), reference(arrays, spec))


def test_positions_may_be_wide():
    with jax.enable_x64(True):
        arrays, spec = inputs(1, 300, 600, 2, 1, 4, dtype=jnp.float64), AttentionSpec(0.5, chunk=100)
        found = attention(AttentionInputs(*arrays[:3], offsets=jnp.array([250], jnp.int64)), spec)
        assert_equal(found, reference(arrays._replace(offsets=jnp.array([250], jnp.int32)), spec), 1e-12)


def test_chunks_see_nothing_of_the_one_before():
    arrays = inputs(1, 9, 9, 1, 1, 4)
    chunk = arrays._replace(query=arrays.query[:, 4:8], key=arrays.key[:, :, 4:8], value=arrays.value[:, :, 4:8])
    whole, alone = reference(arrays, AttentionSpec(0.5, chunk=4)), reference(chunk, AttentionSpec(0.5))
    np.testing.assert_allclose(whole.out[:, 4:8], alone.out, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "axes", [{"tensor": 4}, {"data": 2, "tensor": 2}, {"fsdp": 2, "expert": 2, "tensor": 2}], ids=str
)
def test_on_a_mesh_nothing_is_gathered(axes):
    given, spec = inputs(2, 300, 600, 8, 8, 4, offsets=jnp.array([300, 7], jnp.int32)), AttentionSpec(0.5)
    expected = reference(given, spec)

    def ours(given: AttentionInputs) -> AttentionOutput:
        return attention(AttentionInputs(given.query, given.key, given.value, given.offsets), spec)

    mesh = jaxllm.make_mesh(**axes)
    with jax.set_mesh(mesh):
        rows, heads = tuple(axis for axis in axes if axis in ("data", "fsdp")), ("expert", "tensor")
        query = jax.device_put(given.query, jax.NamedSharding(mesh, jax.P(rows, None, heads)))
        key, value = (jax.device_put(x, jax.NamedSharding(mesh, jax.P(rows, heads))) for x in given[1:3])
        placed = AttentionInputs(query, key, value, given.offsets)
        program = jax.jit(ours).lower(placed).compile()
        text = program.as_text() or ""
        assert "fusion" in text
        assert not any(name in text for name in ("all-gather", "all-reduce", "all-to-all", "permute("))
        assert_equal(program(placed), expected)


def test_few_queries_of_latents_in_bfloat16():
    """The dtype that published weights come in."""
    part = LatentAttentionConfig(4, 8, 4, 8, 16, None, RMSNormConfig(1e-6), 0.3, RotaryConfig(10000.0))
    layer = build(ParameterFactory(nnx.Rngs(0), jnp.dtype(jnp.bfloat16)), part, 32)
    ones = jnp.ones(2, jnp.int32)
    apply = jax.jit(lambda layer, x: layer(x, CallContext(None, ones, ones))[0].astype(jnp.float32))
    x = np.random.default_rng(0).standard_normal((2, 1, 32), np.float32)
    expected = np.asarray(apply(jax.tree.map(jnp.float32, layer), x))
    found = apply(layer, jnp.asarray(x, jnp.bfloat16))
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.05 * np.abs(expected).max())


@pytest.mark.parametrize("kept", ["float32", "bfloat16", "int8"])
def test_latents_expanded_a_segment_at_a_time(kept, monkeypatch):
    """As all at once, the last segment being a part of one; rows begin anywhere, and errors do not add up."""
    part = LatentAttentionConfig(4, 32, 8, 32, 64, None, RMSNormConfig(1e-6), 0.2, RotaryConfig(10000.0))
    dtype = jnp.dtype(jnp.float32 if kept == "int8" else kept)
    layer, x = (
        build(ParameterFactory(nnx.Rngs(0), dtype), part, 64),
        jax.random.normal(jax.random.key(0), (2, 505, 64), dtype),
    )
    starts = jnp.array([249, 100], jnp.int32)

    def read(dtype, segment) -> np.ndarray:
        monkeypatch.setattr(latent_attention, "LATENT_BLOCK", segment)
        wide = jax.tree.map(lambda x: x.astype(dtype), (layer, x))
        return np.asarray(quick.jit(lambda layer, x: rest(layer, x))(*wide), np.float32)

    def rest(layer, x):
        entry = layer.new_cache(CacheSpec(2, 505, jnp.dtype(jnp.int8) if kept == "int8" else x.dtype))
        _, entry = layer(x[:, :249], CallContext(None, starts, starts), entry)
        return layer(x[:, 249:], CallContext(starts, starts + 256, starts + 256), entry)[0]

    exact, once, found = read(jnp.float32, 505), read(dtype, 505), read(dtype, 16)
    assert np.std(found - exact) <= max(1.25 * np.std(once - exact), 1e-6 * np.std(exact))
