"""TPUs' compiler takes the attention kernels, on a machine without a TPU: they fit a chip's fast memory."""

import math
import re
from functools import partial
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import pytest

import jaxllm
from jaxllm.config import ALiBiConfig
from jaxllm.kernels.call import Device
from jaxllm.kernels.flash_tpu import flash_tpu
from jaxllm.kernels.spec import AttentionInputs, AttentionSpec
from jaxllm.planning.programs import programs
from scripts.compile_topology import compiled, devices_of, target
from tests.test_topology import llama

pytestmark = pytest.mark.skipif(find_spec("libtpu") is None, reason="needs libtpu, TPUs' compiler")
HEADS = {"64": (64, 64), "80": (80, 80), "96": (96, 96), "128": (128, 128), "192": (192, 128), "256": (256, 256)}
EVERYTHING = AttentionSpec(
    0.1, window=999, chunk=5000, softcap=30.0, alibi=ALiBiConfig(tuple(0.9**n for n in range(28)))
)


def program(queries, keys, heads, kv_heads, sizes, dtype="bfloat16", stored=None, batch=1, scores=None):
    """What the compiler has of attention on caches [B K S H], with sinks."""
    head_dim, value_dim = sizes
    array = partial(jax.ShapeDtypeStruct, sharding=jax.sharding.SingleDeviceSharding(devices_of("v5e:2x2")[0]))
    query, key = array((batch, queries, heads, head_dim), dtype), (batch, kv_heads, keys, head_dim)
    value = array((*key[:3], value_dim), stored or dtype) if value_dim else None
    scales = [array(key[:3], "float32") if stored else None] * 2
    caches = array(key, stored or dtype), value, *scales

    def attention(query, caches, row, sinks):
        key, value, key_scale, value_scale = caches
        inputs = AttentionInputs(query, key, value, row, row, sinks, key_scale, value_scale)
        return flash_tpu(inputs, scores or AttentionSpec(0.1, value_dim=None if value_dim else 512))

    sinks = array((heads,), "float32")
    return compiled(jax.jit(attention).trace(query, caches, array((batch,), "int32"), sinks).lower())


@pytest.mark.parametrize("sizes", HEADS.values(), ids=HEADS)
def test_prefill(sizes):
    """Memory is linear: the scores of 16,384 queries would take 16 GiB."""
    found = program(16384, 16384 + 100, 16, 4, sizes)
    assert found.bytes.temporaries < 2**30


@pytest.mark.parametrize("sizes", HEADS.values(), ids=HEADS)
def test_decode(sizes):
    """Nothing of the cache is copied."""
    found = program(1, 32768, 28, 4, sizes, batch=4)
    assert found.bytes.temporaries < 2**20


@pytest.mark.parametrize(
    ("queries", "heads", "sizes", "kinds"),
    [
        (700, 28, (128, 128), {"scores": EVERYTHING}),
        (700, 16, (256, 256), {"dtype": "float32"}),
        (1, 8, (64, 64), {"dtype": "float32"}),
        (5, 28, (128, 128), {"stored": jnp.int8}),
        (33, 28, (128, 128), {"stored": jnp.float8_e4m3fn}),
        (1, 128, (576, 0), {}),
        (700, 16, (576, 0), {}),
    ],
)
def test_kinds(queries, heads, sizes, kinds):
    """All features at once, float32, narrow caches, and latents that are their own values."""
    found = program(queries, 5000, heads, math.gcd(heads, 4) if sizes[1] else 1, sizes, batch=2, **kinds)
    assert found.bytes.temporaries < 2**27


@pytest.mark.parametrize("axes", [{"data": 2, "tensor": 8}, {"stage": 2, "tensor": 8}], ids=str)
def test_programs_of_generation(axes):
    """Whole ones, on 16 chips: attention is the kernel, on a device's share of the heads, and no cache is copied."""
    part, chips = llama(4, 1024), devices_of("v5e:4x4")
    mesh, aimed = jaxllm.make_mesh(**axes, devices=chips), target(["flash_tpu"], Device.of(chips[0]))
    made = programs(part, jnp.bfloat16, mesh, 2, 4096, 32768, target=aimed)
    prefill, decode = (compiled(program) for program in made)
    for program, lowered in zip((prefill, decode), made, strict=True):
        assert "tpu_custom_call" in lowered.as_text()
        gathered = [shape for kind, shape, _ in program.collectives if kind not in ("all-reduce", "collective-permute")]
        assert all(math.prod(map(int, re.findall(r"\d+", shape)[1:])) <= 32 for shape in gathered)  # sampled tokens
    cache = 2 * 4 * 2 * 32768 * 8 * 128 * 2 / 16  # bytes on a chip: keys and values, 4 layers, 2 rows, 8 heads of 128
    assert decode.bytes.temporaries < cache / 8
