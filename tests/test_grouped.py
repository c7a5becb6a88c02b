"""Grouped matmuls are each row's own, whatever the sizes of the groups, and cost no more than their rows."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxllm.config import FeedForwardConfig
from jaxllm.kernels.grouped_matmul import blocked_matmul, grouped_matmul
from jaxllm.nn import mixture_of_experts
from jaxllm.nn.parameter import ParameterFactory
from jaxllm.sharding import ShardIndex

SIZES = {
    "even": [5, 5, 5],
    "empty groups": [0, 9, 0, 4, 0],
    "one row each": [1, 1, 1, 1],
    "a single row": [0, 0, 1],
    "all in the last": [0, 0, 700],
    "uneven": [300, 1, 17, 0, 64],
}


def draw(sizes, dim=6, hidden=4) -> tuple[jax.Array, jax.Array, jax.Array]:
    random = np.random.default_rng(0)
    x, weight = random.standard_normal((sum(sizes), dim)), random.standard_normal((len(sizes), hidden, dim))
    return jnp.asarray(x, jnp.float32), jnp.asarray(weight, jnp.float32), jnp.asarray(sizes)


def by_hand(x, weight, sizes):
    return np.concatenate([rows @ w.T for rows, w in zip(np.split(x, np.cumsum(sizes)[:-1]), weight, strict=True)])


@pytest.mark.parametrize("sizes", SIZES)
def test_each_row_meets_its_own_weight(sizes):
    arrays = draw(SIZES[sizes])
    np.testing.assert_allclose(grouped_matmul(*arrays), by_hand(*map(np.asarray, arrays)), rtol=0, atol=1e-5)


def test_gradients():
    x, weight, sizes = draw(SIZES["uneven"])
    group = jnp.repeat(jnp.arange(len(weight)), sizes, total_repeat_length=len(x))

    def dense(x, weight):
        return jnp.sin(jnp.einsum("md,mfd->mf", x, weight[group])).sum()

    expected = jax.grad(dense, argnums=(0, 1))(x, weight)
    for f in (grouped_matmul, blocked_matmul):
        found = jax.jit(jax.grad(lambda x, weight, f=f: jnp.sin(f(x, weight, sizes)).sum(), argnums=(0, 1)))(x, weight)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


@jax.custom_vjp
def poisoned(x, weight, sizes):
    """A grouped matmul that gives the worst where it may give anything, in gradients too."""
    return jnp.where(jnp.arange(len(x))[:, None] < sizes.sum(), blocked_matmul(x, weight, sizes), jnp.nan)


def poisoned_backward(saved, cotangent):
    *floats, sizes = saved
    counts = jnp.arange(len(cotangent))[:, None] < sizes.sum()
    _, backward = jax.vjp(lambda x, weight: blocked_matmul(x, weight, sizes), *floats)
    of_x, of_weight = backward(jnp.where(counts, cotangent, 0))
    return jnp.where(counts, of_x, jnp.nan), of_weight, None


poisoned.defvjp(lambda *arrays: (poisoned(*arrays), arrays), poisoned_backward)


def test_rows_of_other_experts_leave_no_trace(monkeypatch):
    """A share of two experts of four."""
    experts = mixture_of_experts.Experts(
        ParameterFactory(nnx.Rngs(0), jnp.dtype(jnp.float32)), FeedForwardConfig(6, "silu", True), 2, 4
    )
    x, chosen = jax.random.normal(jax.random.key(0), (3, 4)), jnp.array([[0, 3], [2, 3], [1, 0]])

    def total(arrays):
        return (arrays[0](ShardIndex(), arrays[1], chosen, jnp.full((3, 2), 0.5)) ** 2).sum()

    expected = jax.jit(jax.value_and_grad(total))((experts, x))
    monkeypatch.setattr(mixture_of_experts, "grouped_matmul", poisoned)
    found = jax.jit(jax.value_and_grad(lambda arrays: total(arrays)))((experts, x))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-9), found, expected)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_lowers_elsewhere(platform):
    lowered = jax.jit(grouped_matmul).trace(*draw(SIZES["uneven"])).lower(lowering_platforms=(platform,))
    assert "ragged_dot" in lowered.as_text()


def products(jaxpr) -> int:
    """The multiplications of a program's matmuls, its loops run to their end and the costlier of branches taken."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            contracted = equation.params["dimension_numbers"][0][0]
            total += equation.outvars[0].aval.size * math.prod(equation.invars[0].aval.shape[i] for i in contracted)
        inner = [products(p.jaxpr) for p in jax.tree.leaves(list(equation.params.values())) if hasattr(p, "jaxpr")]
        inner += [products(p) for p in jax.tree.leaves(list(equation.params.values())) if hasattr(p, "eqns")]
        total += equation.params.get("length", 1) * max(inner, default=0)
    return total


@pytest.mark.parametrize(("rows", "groups"), [(2048, 16), (4096, 64), (8, 64)])
def test_rows_meet_no_other_weights(rows, groups):
    dim, hidden = 64, 32
    shapes = [(rows, dim), (groups, hidden, dim), (groups,)]
    arrays = [jax.ShapeDtypeStruct(shape, kind) for shape, kind in zip(shapes, "ffi", strict=True)]
    assert rows < products(jax.make_jaxpr(blocked_matmul)(*arrays).jaxpr) / (dim * hidden) <= 3 * rows
    cost = jax.jit(grouped_matmul).lower(*arrays).compile().cost_analysis() or {}
    assert (
        cost["flops"] < 2 * rows * groups * dim * hidden / 4
    )  # what every row by every weight would take; loops count once


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_not_copied(dtype):
    """What a step of decoding needs beside its arguments is about one group's weight, however many there are."""
    x, weight = jnp.zeros((8, 128), dtype), jnp.zeros((64, 256, 128), dtype)
    step = jax.jit(
        lambda x, weight, sizes: jax.lax.fori_loop(
            0, 3, lambda _, x: x + grouped_matmul(x, weight, sizes).sum().astype(x.dtype), x
        )
    )
    memory = step.lower(x, weight, jnp.zeros(64, jnp.int32)).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < weight.nbytes / 8
