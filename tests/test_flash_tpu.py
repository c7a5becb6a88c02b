"""TPUs' flash attention, interpreted on the CPU, is the reference; it lowers where there is no TPU."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu

from jaxllm.config import ALiBiConfig
from jaxllm.kernels.call import AttentionCall, Device
from jaxllm.kernels.flash_tpu import TPUBlockSizes, flash_tpu, unsupported_reason
from jaxllm.kernels.reference import reference
from jaxllm.kernels.spec import MIN_LSE, AttentionInputs, AttentionOutput, AttentionSpec
from tests import quick

SMALL = TPUBlockSizes(rows=16, keys=32, few=8, keys_of_few=64, wide=16)
NARROW = {None: None, "int8": jnp.int8, "float8": jnp.float8_e4m3fn}


def draw(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng([seed, *shape]).standard_normal(shape), dtype)


def arrays(batch, queries, keys, heads, kv_heads, head_dim, value_dim, dtype=jnp.float32, **others):
    query, key = draw(batch, queries, heads, head_dim, dtype=dtype), draw(batch, kv_heads, keys, head_dim, dtype=dtype)
    value = draw(batch, kv_heads, keys, value_dim, seed=1, dtype=dtype) if value_dim else None
    return AttentionInputs(query, key, value, **{name: jnp.asarray(array) for name, array in others.items()})


def stored(inputs: AttentionInputs, dtype) -> AttentionInputs:
    """With keys and values in a narrow type, and scales of their own."""
    scale = jnp.exp(0.3 * draw(*inputs.key.shape[:3])) / 8
    key, value = (None if x is None else (8 * x).astype(dtype) for x in (inputs.key, inputs.value))
    return inputs._replace(key=key, value=value, key_scale=scale, value_scale=scale + 0.1)


def exact(inputs: AttentionInputs, spec: AttentionSpec) -> AttentionOutput:
    """The reference in float64: the oracle, which makes no errors of its own."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: x.astype("float64") if x.dtype in (jnp.bfloat16, jnp.float32) else x, inputs)
        return jax.tree.map(np.asarray, quick.jit(partial(reference, spec=spec))(wide))


def interpreted(inputs: AttentionInputs, spec: AttentionSpec, blocks=SMALL, interpret: Any = True) -> AttentionOutput:
    return jax.jit(partial(flash_tpu, spec=spec, blocks=blocks, interpret=interpret))(inputs)


def assert_equal(found: AttentionOutput, expected: AttentionOutput, bound=2e-6):
    np.testing.assert_allclose(found.out, expected.out, rtol=0, atol=bound * np.abs(expected.out).max())
    nothing = expected.lse <= MIN_LSE
    assert (found.lse <= MIN_LSE)[nothing].all()
    assert not found.out[nothing].any()
    found_lse, expected_lse = (np.where(nothing, 0, mixed.lse) for mixed in (found, expected))
    np.testing.assert_allclose(found_lse, expected_lse, rtol=0, atol=bound * max(1, np.abs(expected_lse).max()))


@st.composite
def calls(draw_):
    """Shapes that are multiples of nothing, and any of the features together."""

    def maybe(values):
        return draw_(st.none() | values)

    def integers(low, high, count):
        return np.array(draw_(st.lists(st.integers(low, high), min_size=count, max_size=count)), np.int32)

    batch, queries, keys = draw_(st.integers(1, 2)), draw_(st.sampled_from([1, 5, 37])), draw_(st.integers(1, 150))
    kv_heads, groups = draw_(st.integers(1, 2)), draw_(st.integers(1, 3))
    heads, head_dim, shared = kv_heads * groups, draw_(st.sampled_from([8, 20, 128])), draw_(st.booleans())
    others = {"sinks": draw(heads, seed=2)} if draw_(st.booleans()) else {}
    others |= {"offsets": integers(-queries - 3, keys + 9, batch)} if draw_(st.booleans()) else {}
    others |= {"lengths": integers(0, keys, batch)} if draw_(st.booleans()) else {}
    slopes = tuple(0.03 / (head + 1) for head in range(heads))  # scores stay small: their rounding is not at issue
    spec = AttentionSpec(
        draw_(st.sampled_from([0.5, 1.5])) / head_dim**0.5,
        causal=draw_(st.booleans()),
        window=maybe(st.integers(1, 90)),
        chunk=maybe(st.integers(1, 70)),
        softcap=maybe(st.just(3.0)),
        alibi=maybe(st.just(ALiBiConfig(slopes, scale=0.7))),
        value_dim=draw_(st.integers(1, head_dim)) if shared else None,
    )
    inputs = arrays(
        batch, queries, keys, heads, kv_heads, head_dim, 0 if shared else draw_(st.sampled_from([12, 128])), **others
    )
    narrow = NARROW[draw_(st.sampled_from(list(NARROW)))]
    return (inputs if narrow is None else stored(inputs, narrow)), spec


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(calls())
def test_equals_reference(call):
    inputs, scores = call
    assert_equal(interpreted(inputs, scores), exact(inputs, scores))


def test_rows_that_see_little_or_nothing():
    """Offsets before the first key and past the last, rows without a key, and a window within one block."""
    lengths, offsets = np.array([100, 0, 100, 7], np.int32), np.array([-9, 3, 97, 60], np.int32)
    inputs, spec = arrays(4, 20, 100, 2, 1, 8, 8, offsets=offsets, lengths=lengths), AttentionSpec(0.5, window=3)
    expected = exact(inputs, spec)
    assert [int((row <= MIN_LSE).sum()) for row in expected.lse] == [2 * 9, 2 * 20, 2 * 15, 2 * 20]
    assert_equal(interpreted(inputs, spec), expected)


@pytest.mark.parametrize(
    ("queries", "head_dim", "value_dim"),
    [(200, 64, 64), (200, 80, 80), (200, 96, 96), (200, 192, 128), (200, 256, 256), (1, 128, 128), (1, 576, None)],
)
def test_bfloat16(queries, head_dim, value_dim):
    """In blocks as they are on a TPU: at most twice as far from float64 as the reference is."""
    keys, kv_heads = 1100, 2 if value_dim else 1
    offsets, scores = (
        np.array([keys - queries - 30], np.int32),
        AttentionSpec(head_dim**-0.5, value_dim=None if value_dim else 512),
    )
    inputs = arrays(1, queries, keys, 4, kv_heads, head_dim, value_dim, dtype=jnp.bfloat16, offsets=offsets)
    found, coarse, true = (f(inputs, scores) for f in (partial(interpreted, blocks=TPUBlockSizes()), reference, exact))
    assert found.out.dtype == jnp.bfloat16
    assert np.abs(found.out - true.out).max() <= 2 * np.abs(coarse.out - true.out).max()
    np.testing.assert_allclose(found.lse, true.lse, rtol=2e-6)


def test_reads_what_is_seen():
    """As many blocks as the longest row's window takes; what lies outside of them may be anything."""
    inputs = arrays(2, 1, 1024, 4, 2, 8, 8, offsets=np.array([700, 300], np.int32))
    spec, points = AttentionSpec(0.3, window=100), []
    poisoned = inputs._replace(
        **{
            name: getattr(inputs, name)
            .at[0, :, :576]
            .set(jnp.nan)
            .at[:, :, 704:]
            .set(jnp.nan)
            .at[1, :, 320:]
            .set(jnp.nan)
            for name in ("key", "value")
        }
    )
    recorder = pltpu.InterpretParams(grid_point_recorder=lambda token, *point: points.append(point) or token)
    found = interpreted(poisoned, spec, interpret=recorder)
    assert_equal(found, exact(inputs, spec))
    assert len(points) == 2 * 2 * 2  # rows, key-value heads, and blocks that hold keys 601 to 700


@pytest.mark.parametrize(
    ("device", "dtype", "scores", "reason"),
    [
        ("tpu", "bfloat16", AttentionSpec(1.0, window=5, alibi=ALiBiConfig((1.0,))), None),
        ("cpu", "bfloat16", AttentionSpec(1.0), "it runs on TPUs, not on cpu"),
        ("tpu", "float16", AttentionSpec(1.0), "TPUs multiply bfloat16 and float32, not float16"),
        ("tpu", "float32", AttentionSpec(1.0, alibi=ALiBiConfig((1.0,), bfloat16=True)), "ALiBi"),
    ],
)
def test_refusal(device, dtype, scores, reason):
    found = unsupported_reason(AttentionCall.of(arrays(1, 1, 64, 1, 1, 8, 8, dtype=dtype), scores), Device(device))
    assert found == reason or reason in found


@pytest.mark.parametrize("queries", [1, 700])
def test_lowers(queries):
    """On a machine without a TPU."""
    offsets, lengths = np.array([5, 9], np.int32), np.array([500, 3000], np.int32)
    inputs = arrays(2, queries, 3000, 28, 4, 128, 128, jnp.bfloat16, sinks=draw(28), offsets=offsets, lengths=lengths)
    spec = AttentionSpec(0.1, window=999, chunk=512, softcap=30.0, alibi=ALiBiConfig(tuple(0.9**n for n in range(28))))
    program = jax.jit(partial(flash_tpu, spec=spec)).trace(stored(inputs, jnp.int8))
    assert program.lower(lowering_platforms=("tpu",)).as_text().count("tpu_custom_call") == 1
