"""What attention takes: memory linear in its length, no work on hidden blocks, and a gradient that does the same."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from jaxllm.kernels.attention import attention
from jaxllm.kernels.blocks import KeyBlocks
from jaxllm.kernels.blockwise import BLOCKS, blockwise
from jaxllm.kernels.gradient import attention_gradient
from jaxllm.kernels.reference import reference
from jaxllm.kernels.spec import MIN_LSE, AttentionInputs, AttentionOutput, AttentionSpec
from tests import quick
from tests.attention_calls import SMALL, calls, inputs


def temporary(queries, keys, offset=0):
    """Bytes that a call takes besides its arguments, keys and values lying as they do in a cache."""
    query, kept = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, queries, 4, 16), (1, 4, keys, 16)))

    def call(query, key, value):
        return attention(AttentionInputs(query, key, value, jnp.array([offset])), AttentionSpec(1.0))

    memory = jax.jit(call).lower(query, kept, kept).compile().memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes


def test_memory_is_linear():
    """In the queries, and a step of decoding takes none that grows with the cache."""
    short, long = (temporary(n, n) for n in (4096, 8192))
    assert 0 < long < 2.2 * short
    assert long < 4 * 8192 * 8192 / 4  # a quarter of one head's scores, for all heads
    few, many = (temporary(1, n, n - 1) for n in (4096, 65536))
    assert many < few + 10000


def blocks_read(given: AttentionInputs, spec: AttentionSpec) -> int:
    """How many blocks of keys a call comes to, counted as they are taken."""
    count = 0

    def one_more(_):
        nonlocal count
        count += 1

    def counted(given: AttentionInputs) -> AttentionOutput:
        original = KeyBlocks.masked_scores

        def scored(self, query, key, position, index):
            jax.debug.callback(one_more, index)
            return original(self, query, key, position, index)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(KeyBlocks, "masked_scores", scored)
            return blockwise(given, spec)

    jax.block_until_ready(jax.jit(counted)(given))
    jax.effects_barrier()
    return count


def test_hidden_blocks_are_not_read():
    size, step = 8 * BLOCKS.keys, partial(inputs, 2, 1, 8 * BLOCKS.keys, 4, 2, 8)
    assert blocks_read(step(offsets=jnp.array([700, 10])), AttentionSpec(1.0)) == -(-701 // BLOCKS.keys)
    assert blocks_read(step(offsets=jnp.array([size - 1, size - 9])), AttentionSpec(1.0, window=100)) == 1
    assert blocks_read(step(lengths=jnp.array([700, 10])), AttentionSpec(1.0, causal=False)) == -(-700 // BLOCKS.keys)
    assert blocks_read(step(offsets=jnp.array([size - 1, size - 9])), AttentionSpec(1.0, chunk=BLOCKS.keys)) == 1
    whole = inputs(1, size, size, 4, 2, 8)
    blocks = size // BLOCKS.queries
    every = sum(-(-(i + 1) * BLOCKS.queries // BLOCKS.keys) for i in range(blocks))
    assert blocks_read(whole, AttentionSpec(1.0)) == every
    assert blocks_read(whole, AttentionSpec(1.0, window=10)) < 2 * blocks


@settings(max_examples=20, deadline=None, derandomize=True)
@given(calls())
def test_gradients_are_those_of_the_reference(call):
    """Of query, key, value and sinks, by the values mixed and by the logarithms, wherever a query sees anything."""
    with jax.enable_x64(True):
        given, scores = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, call[0]), call[1]
        names = [name for name in ("query", "key", "value", "sinks") if getattr(given, name) is not None]
        random = np.random.default_rng(1)

        def made(floats: dict[str, jax.Array]) -> AttentionOutput:
            mixed = reference(given._replace(**floats), scores)
            return AttentionOutput(mixed.out, jnp.where(mixed.lse > MIN_LSE, mixed.lse, 0))

        def both(floats: dict[str, jax.Array], wanted: AttentionOutput) -> tuple[dict[str, jax.Array], AttentionInputs]:
            _, back = jax.vjp(made, floats)
            exactly = reference(given, scores)
            masked = wanted._replace(lse=jnp.where(exactly.lse > MIN_LSE, wanted.lse, 0))
            return back(wanted)[0], attention_gradient(given, scores, exactly, masked, SMALL)

        shape = *given.query.shape[:3], scores.value_dim if given.value is None else given.value.shape[-1]
        wanted = AttentionOutput(*(jnp.asarray(random.standard_normal(size)) for size in (shape, shape[:3])))
        expected, found = quick.jit(both)({name: getattr(given, name) for name in names}, wanted)
        for name in names:
            np.testing.assert_allclose(getattr(found, name), expected[name], rtol=0, atol=1e-10)


def test_a_long_call_has_gradients_through_the_entry():
    """And those have derivatives of their own, forward (Pearlmutter 1994)."""
    given, scores = (
        inputs(1, 300, 600, 4, 2, 4, sinks=jnp.array([0.5, -1.0, 2.0, 0.0])),
        AttentionSpec(3.0, softcap=2.0),
    )
    offsets = jnp.array([300], jnp.int32)

    def loss(floats, f):
        return (f(floats).out ** 2).sum()

    def ours(floats):
        return attention(AttentionInputs(floats.query, floats.key, floats.value, offsets, sinks=floats.sinks), scores)

    def curved(f):
        return jax.jvp(jax.grad(partial(loss, f=f)), (given,), (jax.tree.map(jnp.cos, given),))

    found = jax.jit(lambda: curved(ours))()
    expected = curved(lambda floats: reference(floats._replace(offsets=offsets), scores))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-5 * np.abs(other).max())


@pytest.mark.parametrize("queries", [8, 300])
def test_gradients_have_the_dtypes_of_what_they_are_by(queries):
    given = inputs(1, queries, 600, 4, 2, 4)
    given = given._replace(key=given.key.astype(jnp.bfloat16), value=given.value.astype(jnp.float16))

    def loss(given):
        return attention(AttentionInputs(*given[:3]), AttentionSpec(1.0)).out.sum()

    found = jax.eval_shape(jax.grad(loss), given)
    assert [x.dtype for x in found[:3]] == [x.dtype for x in given[:3]]
