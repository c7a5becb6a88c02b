"""Attention in blocks is attention, with every feature and its gradient, and its memory and work are linear."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxllm
from jaxllm import config
from jaxllm.cache import Span
from jaxllm.kernels.attention import attention
from jaxllm.kernels.blocks import Blocks
from jaxllm.kernels.blockwise import BLOCKS, blockwise
from jaxllm.kernels.gradient import gradient
from jaxllm.kernels.inputs import NOTHING, Inputs, Mixed, Scores, combined
from jaxllm.kernels.reference import reference
from jaxllm.narrow import narrow
from jaxllm.nn.parameter import Init, build
from tests import quick

SMALL = Blocks(queries=4, keys=8)
SLOPES = (0.5, 0.25, 0.1, 0.01)


def inputs(
    batch, queries, keys, heads, kv_heads, head_dim, value_dim=None, dtype=jnp.float32, seed=0, **more
) -> Inputs:
    random = np.random.default_rng(seed)

    def draw(length: int, heads: int, dim: int) -> jax.Array:
        return jnp.asarray(random.standard_normal((batch, length, heads, dim)), dtype)

    value = draw(keys, kv_heads, value_dim or head_dim)
    return Inputs(draw(queries, heads, head_dim), draw(keys, kv_heads, head_dim), value, **more)


@st.composite
def calls(draw) -> tuple[Inputs, Scores]:
    """Calls of every kind; queries may stand before the first key, behind the last, and see nothing at all."""
    batch, queries, keys = draw(st.integers(1, 3)), draw(st.integers(1, 11)), draw(st.integers(1, 19))
    kv_heads, groups = draw(st.sampled_from([(1, 1), (1, 4), (2, 2), (4, 1)]))
    some = lambda low, high: draw(st.none() | st.lists(st.integers(low, high), min_size=batch, max_size=batch))  # noqa: E731
    offsets, lengths = some(-12, 24), some(0, 25)
    heads = kv_heads * groups
    alibi = config.Alibi((SLOPES * 2)[:heads], scale=0.7, bfloat16=draw(st.booleans()))
    scores = Scores(
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
        given, scores = given._replace(value=None), replace(scores, value_dim=draw(st.sampled_from([4, 8])))
    return given, scores


def assert_equal(found: Mixed, expected: Mixed, bound: float = 2e-6) -> None:
    for one, other in zip(found, expected, strict=True):
        there = np.asarray(expected.lse > NOTHING)
        there = there[..., None] if one.ndim > there.ndim else there
        one, other = (np.where(there, np.asarray(x, np.float64), 0) for x in (one, other))
        np.testing.assert_allclose(one, other, rtol=0, atol=bound * max(np.abs(other).max(), 1e-30))
    nothing = np.asarray(expected.lse <= NOTHING)
    assert (np.asarray(found.lse) <= NOTHING)[nothing].all()
    assert not np.asarray(found.out)[nothing].any()


@settings(max_examples=50, deadline=None, derandomize=True)
@given(calls())
def test_blockwise_equals_the_reference(call):
    with jax.enable_x64(True):  # exactly: what differs is not rounding
        given, scores = call
        wide = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, given)
        both = quick.jit(lambda wide: (blockwise(wide, scores, SMALL), reference(wide, scores)))
        assert_equal(*both(wide), 1e-12)


FEATURES = {
    "plain": Scores(0.3),
    "not causal": Scores(0.3, causal=False),
    "window": Scores(0.3, window=7),
    "wide window": Scores(0.3, window=600),
    "chunk": Scores(0.3, chunk=100),
    "soft cap": Scores(3.0, softcap=2.0),
    "alibi": Scores(0.3, alibi=config.Alibi(SLOPES, scale=0.7)),
    "rounded alibi": Scores(0.3, alibi=config.Alibi(SLOPES, bfloat16=True)),
}
LONG = {"offsets": jnp.array([0, 10], jnp.int32), "lengths": jnp.array([1027, 900], jnp.int32)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("feature", FEATURES)
def test_blockwise_rounds_as_the_reference_does(feature, dtype):
    """float32 within 2e-6 of it; others within twice its own distance from float64."""
    scores = FEATURES[feature]
    given = inputs(2, 517, 1027, 4, 2, 16, 18, dtype, sinks=jnp.array([0.5, -1.0, 2.0, 0.0]), **LONG)
    found, expected = (quick.jit(partial(f, scores=scores))(given) for f in (blockwise, reference))
    if dtype == "float32":
        return assert_equal(found, expected)
    with jax.enable_x64(True):
        floats = given._replace(
            **{name: getattr(given, name).astype(jnp.float64) for name in ("query", "key", "value")}
        )
        exact = np.asarray(quick.jit(partial(reference, scores=scores))(floats).out)
    ours, theirs = (np.abs(np.asarray(x.out, np.float64) - exact).max() for x in (found, expected))
    assert 0 < ours <= 2 * theirs
    return None


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.float8_e4m3fn])
@pytest.mark.parametrize("value_dim", [None, 8])
def test_narrow_keys_and_values(dtype, value_dim):
    """What is kept in eight bits counts as what it stands for, in both."""
    given, scores = inputs(2, 5, 20, 4, 2, 16, offsets=jnp.array([15, 3])), Scores(0.3, value_dim=value_dim)
    key, value = narrow(given.key, dtype), narrow(given.value if value_dim is None else given.key, dtype)
    wide = [(x.values.astype(jnp.float32) * x.scale[..., None]) for x in (key, value)]
    wide = given._replace(key=wide[0], value=None if value_dim else wide[1])
    kept = given._replace(key=key.values, value=None if value_dim else value.values)
    kept = kept._replace(key_scale=key.scale, value_scale=value.scale)
    for f in (reference, partial(blockwise, blocks=SMALL)):
        assert_equal(f(kept, scores), reference(wide, scores))
    worst = np.abs(wide.key - given.key).max(axis=-1) / np.abs(given.key).max(axis=-1)
    assert 0 < worst.max() <= (0.5 / 127 if dtype == jnp.int8 else 1 / 16) * 1.0001


@pytest.mark.parametrize("sink", [None, 0.7])
def test_reference_by_hand(sink):
    sinks = None if sink is None else jnp.array([sink, sink])
    arrays = inputs(1, 3, 6, 2, 1, 4, offsets=jnp.array([2]), sinks=sinks)
    scores = Scores(0.5, window=2, softcap=1.5, alibi=config.Alibi((0.2, 0.3), scale=2.0))
    found = reference(arrays, scores)
    query, key, value = (np.asarray(array) for array in (arrays.query, arrays.key, arrays.value))
    for t in range(3):
        seen = slice(t + 1, t + 3)  # the query at position t + 2 and the key before it
        for head, slope in enumerate((0.2, 0.3)):
            capped = 1.5 * np.tanh(0.5 * key[0, seen, 0] @ query[0, t, head] / 1.5)
            weights = np.exp(capped + 2.0 * slope * np.array([-1, 0]))
            total = weights.sum() + (0 if sink is None else np.exp(sink))
            np.testing.assert_allclose(found.out[0, t, head], weights @ value[0, seen, 0] / total, rtol=1e-5)
            np.testing.assert_allclose(found.lse[0, t, head], np.log(total), rtol=1e-5)


def test_ranges_of_keys_combine():
    arrays, scores = inputs(2, 5, 20, 4, 2, 8, offsets=jnp.array([15, 3])), Scores(0.3)
    parts = [
        arrays._replace(
            key=arrays.key[:, at : at + 10], value=arrays.value[:, at : at + 10], offsets=arrays.offsets - at
        )
        for at in (0, 10)
    ]
    assert_equal(combined(*(reference(part, scores) for part in parts)), reference(arrays, scores))


def test_chunks_see_nothing_of_the_one_before():
    arrays = inputs(1, 9, 9, 1, 1, 4)
    chunk = arrays._replace(**{name: getattr(arrays, name)[:, 4:8] for name in ("query", "key", "value")})
    whole, alone = reference(arrays, Scores(0.5, chunk=4)), reference(chunk, Scores(0.5))
    np.testing.assert_allclose(whole.out[:, 4:8], alone.out, rtol=0, atol=1e-6)


def temporary(queries, keys, offset=0):
    """Bytes that a call takes besides its arguments, keys and values lying as they do in a cache."""
    query, kept = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, queries, 4, 16), (1, 4, keys, 16)))

    def call(query, key, value):
        views = (x.swapaxes(1, 2) for x in (key, value))
        return attention(query, *views, offsets=jnp.array([offset]), scores=Scores(1.0))

    return jax.jit(call).lower(query, kept, kept).compile().memory_analysis().temp_size_in_bytes


def test_memory_is_linear():
    """In the queries, and a step of decoding takes none that grows with the cache."""
    short, long = (temporary(n, n) for n in (4096, 8192))
    assert 0 < long < 2.2 * short
    assert long < 4 * 8192 * 8192 / 4  # a quarter of one head's scores, for all heads
    few, many = (temporary(1, n, n - 1) for n in (4096, 65536))
    assert many < few + 10000


def blocks_read(given: Inputs, scores: Scores) -> int:
    """How many blocks of keys a call comes to, counted as they are taken."""
    count = 0

    def one_more(_):
        nonlocal count
        count += 1

    def counted(given: Inputs) -> Mixed:
        from jaxllm.kernels.blocks import Keys

        original = Keys.scored

        def scored(self, query, key, position, index):
            jax.debug.callback(one_more, index)
            return original(self, query, key, position, index)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Keys, "scored", scored)
            return blockwise(given, scores)

    jax.block_until_ready(jax.jit(counted)(given))
    jax.effects_barrier()
    return count


def test_hidden_blocks_are_not_read():
    size, step = 8 * BLOCKS.keys, partial(inputs, 2, 1, 8 * BLOCKS.keys, 4, 2, 8)
    assert blocks_read(step(offsets=jnp.array([700, 10])), Scores(1.0)) == -(-701 // BLOCKS.keys)
    assert blocks_read(step(offsets=jnp.array([size - 1, size - 9])), Scores(1.0, window=100)) == 1
    assert blocks_read(step(lengths=jnp.array([700, 10])), Scores(1.0, causal=False)) == -(-700 // BLOCKS.keys)
    assert blocks_read(step(offsets=jnp.array([size - 1, size - 9])), Scores(1.0, chunk=BLOCKS.keys)) == 1
    whole = inputs(1, size, size, 4, 2, 8)
    blocks = size // BLOCKS.queries
    every = sum(-(-(i + 1) * BLOCKS.queries // BLOCKS.keys) for i in range(blocks))
    assert blocks_read(whole, Scores(1.0)) == every
    assert blocks_read(whole, Scores(1.0, window=10)) < 2 * blocks


@settings(max_examples=20, deadline=None, derandomize=True)
@given(calls())
def test_gradients_are_those_of_the_reference(call):
    """Of query, key, value and sinks, by the values mixed and by the logarithms, wherever a query sees anything."""
    with jax.enable_x64(True):
        given, scores = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, call[0]), call[1]
        names = [name for name in ("query", "key", "value", "sinks") if getattr(given, name) is not None]
        random = np.random.default_rng(1)

        def made(floats: dict[str, jax.Array]) -> Mixed:
            mixed = reference(given._replace(**floats), scores)
            return Mixed(mixed.out, jnp.where(mixed.lse > NOTHING, mixed.lse, 0))

        def both(floats: dict[str, jax.Array], wanted: Mixed) -> tuple[dict[str, jax.Array], Inputs]:
            _, back = jax.vjp(made, floats)
            exactly = reference(given, scores)
            masked = wanted._replace(lse=jnp.where(exactly.lse > NOTHING, wanted.lse, 0))
            return back(wanted)[0], gradient(given, scores, exactly, masked, SMALL)

        shape = *given.query.shape[:3], scores.value_dim if given.value is None else given.value.shape[-1]
        wanted = Mixed(*(jnp.asarray(random.standard_normal(size)) for size in (shape, shape[:3])))
        expected, found = quick.jit(both)({name: getattr(given, name) for name in names}, wanted)
        for name in names:
            np.testing.assert_allclose(getattr(found, name), expected[name], rtol=0, atol=1e-10)


def test_a_long_call_has_gradients_through_the_entry():
    given, scores = inputs(1, 300, 600, 4, 2, 4, sinks=jnp.array([0.5, -1.0, 2.0, 0.0])), FEATURES["soft cap"]
    offsets = jnp.array([300], jnp.int32)

    def loss(floats, f):
        return (f(floats).out ** 2).sum()

    def ours(floats):
        return attention(floats.query, floats.key, floats.value, sinks=floats.sinks, offsets=offsets, scores=scores)

    found = jax.jit(jax.grad(partial(loss, f=ours)))(given)
    expected = jax.grad(partial(loss, f=lambda floats: reference(floats._replace(offsets=offsets), scores)))(given)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-5 * np.abs(other).max())


@pytest.mark.parametrize(
    "axes", [{"tensor": 4}, {"data": 2, "tensor": 2}, {"fsdp": 2, "expert": 2, "tensor": 2}], ids=str
)
def test_on_a_mesh_nothing_is_gathered(axes):
    given, scores = inputs(2, 300, 600, 8, 8, 4, offsets=jnp.array([300, 7], jnp.int32)), Scores(0.5)
    expected = reference(given, scores)

    def ours(given: Inputs) -> Mixed:
        return attention(given.query, given.key, given.value, offsets=given.offsets, scores=scores)

    mesh = jaxllm.make_mesh(**axes)
    with jax.set_mesh(mesh):
        rows, heads = tuple(axis for axis in axes if axis in ("data", "fsdp")), ("expert", "tensor")
        spec = jax.P(rows, None, heads)
        placed = Inputs(*(jax.device_put(x, jax.NamedSharding(mesh, spec)) for x in given[:3]), given.offsets)
        program = jax.jit(ours).lower(placed).compile()
        assert not any(name in program.as_text() for name in ("all-gather", "all-reduce", "all-to-all", "permute("))
        assert_equal(program(placed), expected)


def test_few_queries_of_latents_in_bfloat16():
    """The dtype that published weights come in."""
    part = config.LatentAttention(4, 8, 4, 8, 16, None, config.RMSNorm(1e-6), 0.3, config.Rotary(10000.0))
    layer = build(Init(nnx.Rngs(0), jnp.dtype(jnp.bfloat16)), part, 32)
    ones = jnp.ones(2, jnp.int32)
    apply = jax.jit(lambda layer, x: layer(x, Span(None, ones, ones))[0].astype(jnp.float32))
    x = np.random.default_rng(0).standard_normal((2, 1, 32), np.float32)
    expected = np.asarray(apply(jax.tree.map(jnp.float32, layer), x))
    found = apply(layer, jnp.asarray(x, jnp.bfloat16))
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.05 * np.abs(expected).max())
