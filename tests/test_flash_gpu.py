"""The kernel for Hopper: interpreted it is the reference, and it lowers wherever a program needs it."""

import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

import jaxllm
from jaxllm.config import ALiBiConfig
from jaxllm.kernels.call import AttentionCall, Device
from jaxllm.kernels.flash_gpu import LaunchPlan, Tiles, flash_gpu, plan_launch, unsupported_reason
from jaxllm.kernels.flash_gpu.plan import MULTIPROCESSORS, SHARED_BYTES, split
from jaxllm.kernels.reference import reference
from jaxllm.kernels.spec import MIN_LSE, AttentionInputs, AttentionOutput, AttentionSpec

SIZES = (64, 64), (80, 80), (96, 96), (128, 128), (192, 192), (192, 128), (256, 256)
LIMIT = 240  # seconds for one interpreted call: the interpreter of JAX 0.10 may hang where a barrier is wrong
EXAMPLES = 8 if jax.__version_info__ >= (0, 12) else 2  # and it takes some five times as long


SMALL = Tiles(keys=64)


@dataclass(frozen=True)
class Case:
    """A call: B, T, S, N, K, H, V; the offsets and lengths of its rows; what is not seen may be NaN."""

    shape: tuple[int, int, int, int, int, int, int]
    spec: AttentionSpec
    offsets: tuple[int, ...] | None = None
    lengths: tuple[int, ...] | None = None
    sinks: bool = False
    dtype: str = "bfloat16"
    tiles: Tiles = SMALL
    poisoned: tuple[int, int] | None = None

    def inputs(self) -> AttentionInputs:
        batch, queries, keys, heads, kv_heads, head_dim, value_dim = self.shape
        random = np.random.default_rng(0)
        shapes = (queries, heads, head_dim), (kv_heads, keys, head_dim), (kv_heads, keys, value_dim)
        query, key, value = (jnp.asarray(random.standard_normal((batch, *shape)), self.dtype) for shape in shapes)
        offsets, lengths = (None if x is None else jnp.array(x, jnp.int32) for x in (self.offsets, self.lengths))
        sinks = jnp.asarray(random.standard_normal(heads), jnp.float32) if self.sinks else None
        return AttentionInputs(query, key, value, offsets, lengths, sinks)


def interpreted(case: Case) -> tuple[AttentionOutput, AttentionOutput, AttentionOutput]:
    """By the kernel, by the reference in the same precision, and by the reference in float64."""
    inputs = poisoned = case.inputs()
    if case.poisoned is not None:
        key, value = (x.at[:, :, slice(*case.poisoned)].set(jnp.nan) for x in inputs[1:3] if x is not None)
        poisoned = inputs._replace(key=key, value=value)
    found, rounded = flash_gpu(poisoned, case.spec, tiles=case.tiles, interpret=True), reference(inputs, case.spec)
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == case.dtype else x, inputs)
        return jax.tree.map(lambda x: np.asarray(x, np.float64), (found, rounded, reference(exact, case.spec)))


@pytest.fixture(scope="module")
def check() -> Iterator[Callable[[Case], AttentionOutput]]:
    """Compares a case's outputs; interprets in a process of its own, since a kernel may be stuck."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:

        def compare(case: Case) -> AttentionOutput:
            found, rounded, exact = pool.apply_async(interpreted, (case,)).get(LIMIT)
            assert abs(found.out - exact.out).max() <= 2 * abs(rounded.out - exact.out).max() + 1e-6
            seen = exact.lse > MIN_LSE
            assert ((found.lse > MIN_LSE) == seen).all()
            assert not found.out[~seen].any()
            np.testing.assert_allclose(found.lse[seen], exact.lse[seen], rtol=1e-5, atol=1e-5)
            return found

        yield compare


ONE, TWO = (Tiles(keys=64, splits=splits) for splits in (1, 2))
WIDE = Tiles(keys=64, splits=1, warpgroups=2)
SLOPES = ALiBiConfig((0.5, 0.1))
EDGES = {
    "rows that see nothing": Case((3, 3, 130, 2, 1, 16, 16), AttentionSpec(0.3), (-2, 5, -9), (100, 0, 130), tiles=ONE),
    "no mask": Case((1, 9, 70, 2, 2, 32, 16), AttentionSpec(0.3, causal=False), tiles=Tiles()),
    "two warpgroups": Case((1, 128, 320, 1, 1, 64, 64), AttentionSpec(0.2, window=150), (180,), tiles=WIDE),
    "two warpgroups of two heads": Case((1, 35, 90, 2, 1, 16, 16), AttentionSpec(0.2, alibi=SLOPES), (55,), tiles=WIDE),
    "two warpgroups of one head": Case((1, 128, 128, 2, 2, 16, 32), AttentionSpec(0.2, alibi=SLOPES), tiles=WIDE),
    "what is hidden is not read": Case(
        (1, 2, 400, 2, 1, 16, 16), AttentionSpec(0.3, window=30), (260,), poisoned=(0, 192), tiles=TWO
    ),
    "what is not filled is not read": Case(
        (1, 1, 400, 2, 1, 16, 16), AttentionSpec(0.3), (100,), (101,), poisoned=(128, 400), tiles=TWO
    ),
}


@pytest.mark.parametrize("edge", EDGES)
def test_edges(check, edge):
    check(EDGES[edge])


@st.composite
def cases(draw) -> Case:
    """Any features, on shapes that are multiples of nothing."""
    batch, kv_heads, groups = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.sampled_from((1, 2, 3)))
    queries, keys, heads = draw(st.sampled_from((1, 2, 5, 33))), draw(st.integers(1, 200)), kv_heads * groups
    slopes = tuple(0.5**head for head in range(1, heads + 1))
    spec = AttentionSpec(
        scale=draw(st.sampled_from((0.1, 0.4))),
        causal=draw(st.booleans()),
        window=draw(st.none() | st.integers(1, 150)),
        chunk=draw(st.none() | st.integers(1, 150)),
        softcap=draw(st.none() | st.sampled_from((2.0, 30.0))),
        alibi=draw(st.none() | st.just(ALiBiConfig(slopes, scale=0.7))),
    )
    offsets = draw(st.none() | st.tuples(*[st.integers(-4, keys + 4)] * batch))
    lengths = draw(st.none() | st.tuples(*[st.integers(0, keys)] * batch))
    shape = batch, queries, keys, heads, kv_heads, draw(st.sampled_from((16, 80))), draw(st.sampled_from((16, 48)))
    tiles = Tiles(keys=64, splits=draw(st.sampled_from((None, 1, 2))))
    dtype = draw(st.sampled_from(("bfloat16", "float16")))
    return Case(shape, spec, offsets, lengths, draw(st.booleans()), dtype, tiles)


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
@given(case=cases())
def test_equals_reference(check, case):
    check(case)


def abstract(sizes: tuple[int, int], queries: int, keys: int, batch: int = 2, heads: int = 8, kv_heads: int = 2) -> Any:
    """Inputs in bfloat16 as a cache keeps them: keys and values [B K S H]."""

    def shape(*sizes: int, dtype: Any = jnp.bfloat16) -> Any:
        return jax.ShapeDtypeStruct(sizes, dtype)

    query = shape(batch, queries, heads, sizes[0])
    key, value = (shape(batch, kv_heads, keys, size) for size in sizes)
    sinks = shape(heads, dtype=jnp.float32)
    return AttentionInputs(query, key, value, shape(batch, dtype=jnp.int32), shape(batch, dtype=jnp.int32), sinks)


def attend(inputs: AttentionInputs, spec: AttentionSpec) -> AttentionOutput:
    kernels = {"cuda": partial(flash_gpu, spec=spec), "default": partial(reference, spec=spec)}
    return jax.lax.platform_dependent(inputs, **kernels)


def lowered(function: Callable, *arguments: Any) -> str:
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()


FEATURES = {
    "plain": AttentionSpec(0.1),
    "all": AttentionSpec(0.1, window=1000, chunk=3000, softcap=30.0, alibi=ALiBiConfig((0.5,) * 8)),
}


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_lowers(sizes, feature):
    """Prefill and decode, in a loop, over a cache whose end is within a block."""
    step = partial(attend, spec=FEATURES[feature])

    def loop(inputs: AttentionInputs) -> jax.Array:
        def body(query: jax.Array) -> jax.Array:
            return query + step(inputs._replace(query=query)).lse.sum().astype(query.dtype)

        return jax.lax.while_loop(lambda query: query[0, 0, 0, 0] < 9, body, inputs.query)

    for queries in (1, 640):
        assert lowered(loop, abstract(sizes, queries, 1000)).count("mosaic_gpu_v2") == 1


def test_keys_are_not_copied():
    """A cache goes into the kernel as it lies."""
    text = lowered(partial(attend, spec=AttentionSpec(0.1)), abstract((128, 128), 1, 1000))
    lines = [line for line in text.splitlines() if "2x2x1000x128xbf16" in line.split("->")[-1]]
    assert all("transpose" in line or "func" in line or "case" in line for line in lines), lines


def test_lowers_on_a_shard_of_heads():
    mesh, heads = jaxllm.make_mesh(tensor=2, data=-1), PartitionSpec(None, None, "tensor")
    stored, rows = PartitionSpec(None, "tensor"), PartitionSpec()
    inputs = abstract((128, 128), 64, 1024)
    specs = (heads, stored, stored, rows, rows, PartitionSpec("tensor"))

    def shard(*arrays: jax.Array) -> AttentionOutput:
        return attend(AttentionInputs(*arrays), AttentionSpec(0.1))

    text = lowered(jax.shard_map(shard, mesh=mesh, in_specs=specs, out_specs=heads, check_vma=False), *inputs[:6])
    assert "mosaic_gpu_v2" in text
    assert "all_gather" not in text


def request_of(
    sizes: tuple[int, int], queries: int, keys: int, dtype: Any = jnp.bfloat16, **changes: Any
) -> AttentionCall:
    return replace(AttentionCall(1, queries, keys, 8, 2, *sizes, jnp.dtype(dtype), AttentionSpec(0.1)), **changes)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_plans_fit(sizes):
    """Into shared memory; and no more registers are asked for than a thread block starts with, or it waits forever."""
    for queries, keys in ((1, 100), (1, 65536), (300, 4096), (4096, 4096)):
        for batch in (1, 64):
            cut = plan_launch(request_of(sizes, queries, keys, batch=batch), Tiles())
            assert cut.shared <= SHARED_BYTES - 1024
            assert cut.blocks * cut.block >= cut.rows
    with pytest.raises(ValueError, match="wait forever"):
        plan_launch(request_of(sizes, 4096, 4096), Tiles(registers=(240, 40)))


def test_few_queries_share_a_block():
    """Each key is read by one thread block, whatever the heads, and the processors have work."""
    cut = plan_launch(request_of((128, 128), 4, 65536), Tiles())
    assert (cut.pack, cut.heads, cut.blocks, cut.warpgroups, cut.stored) == (4, 2, 1, 1, 16)
    assert cut.splits * cut.heads >= 0.9 * MULTIPROCESSORS
    many: LaunchPlan = plan_launch(request_of((128, 128), 16384, 16384), Tiles())
    assert (many.pack, many.heads, many.splits, many.warpgroups) == (1, 8, 1, 2)


@pytest.mark.parametrize(("blocks", "key_blocks", "splits"), [(1, 512, 128), (8, 64, 16), (132, 64, 1), (160, 64, 4)])
def test_split(blocks, key_blocks, splits):
    assert split(blocks, key_blocks) == splits


def test_refusals():
    hopper, fine = Device("cuda", "NVIDIA H200", 9.0), request_of((128, 128), 1, 100)
    assert unsupported_reason(fine, hopper) is None
    assert "compute capability 8.0" in str(unsupported_reason(fine, Device("cuda", "NVIDIA A100", 8.0)))
    assert "platform rocm" in str(unsupported_reason(fine, Device("rocm")))
    alibi = AttentionSpec(0.1, alibi=ALiBiConfig((0.5,) * 8, bfloat16=True))
    refused = {
        "float32": {"dtype": jnp.dtype(jnp.float32)},
        "quantized": {"quantized": True},
        "parts of keys": {"shared_value": True},
        "heads of 72": {"head_dim": 72},
        "values of 512": {"value_dim": 512},
        "rounded": {"spec": alibi},
        "scale": {"spec": AttentionSpec(-1.0)},
    }
    for reason, changes in refused.items():
        assert reason in str(unsupported_reason(replace(fine, **changes), hopper))
