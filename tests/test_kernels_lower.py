"""Every call that a kernel accepts lowers for its platform on a machine without one; so do generation's programs."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import jaxllm
from jaxllm.config import (
    ALiBiConfig,
    AttentionConfig,
    BlockConfig,
    DecoderConfig,
    FeedForwardConfig,
    RMSNormConfig,
    RotaryConfig,
    StackConfig,
)
from jaxllm.kernels.attention import KERNELS, attention, select_kernel
from jaxllm.kernels.call import AttentionCall, Device
from jaxllm.kernels.cases import CASES
from jaxllm.kernels.spec import AttentionInputs, AttentionSpec
from jaxllm.kernels.target import Target, override_target
from jaxllm.planning.programs import programs

DEVICES = {"cuda": Device("cuda", "NVIDIA H200", 9.0), "tpu": Device("tpu", "TPU v5e")}
NAMES = {"flash_gpu": "mosaic_gpu", "cudnn": "__cudnn$fmha", "flash_tpu": "tpu_custom_call"}


@pytest.fixture(autouse=True)
def any_cudnn(monkeypatch):
    """JAX asks the cuDNN that is installed for its version."""
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91000)


def aimed(platform: str, *kernels: str) -> Target:
    return Target(DEVICES[platform], frozenset(kernels))


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_case_that_it_accepts(kernel):
    """In bfloat16, one program a call; few are left to others."""
    platform, run, refusal, _ = KERNELS[kernel]
    accepted = 0
    for case in CASES:
        inputs = case.shapes("bfloat16")
        if refusal(AttentionCall.of(inputs, case.spec), DEVICES[platform]) is None:
            accepted += 1
            traced = jax.jit(lambda inputs, scores=case.spec: run(inputs, scores)).trace(inputs)
            assert NAMES[kernel] in traced.lower(lowering_platforms=(platform,)).as_text(), case.name
    assert accepted >= {"flash_gpu": 38, "cudnn": 8, "flash_tpu": 40}[kernel]


MODELS = {
    "grouped heads": AttentionConfig(8, 4, 64, 0.125, position=RotaryConfig(10000.0)),
    "window, sinks": AttentionConfig(8, 4, 64, 0.125, position=RotaryConfig(10000.0), window=512, sinks=True),
    "alibi": AttentionConfig(8, 8, 64, 0.125, position=ALiBiConfig(tuple(2.0**-n for n in range(8)))),
}


@pytest.mark.parametrize("axes", [{"tensor": 1}, {"data": 2, "tensor": 4}, {"stage": 2, "tensor": 4}], ids=str)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kernel", ["flash_gpu", "flash_tpu"])
def test_programs_of_generation(kernel, name, axes):
    """Prefill of a whole prompt and of the rest of one, and decoding, on one device and on shares of the heads."""
    norm, platform = RMSNormConfig(1e-6), KERNELS[kernel].platform
    block = BlockConfig(MODELS[name], FeedForwardConfig(256, "silu", gated=True), pre_norm=norm)
    config = DecoderConfig(512, 512, StackConfig(2, (block,)), norm, 8192)
    for prompt in (1024, 4096):
        target = aimed(platform, kernel)
        made = programs(
            config, jnp.bfloat16, jaxllm.make_mesh(**axes), 2, prompt, 8192, platform=platform, target=target
        )
        for program in made:
            assert NAMES[kernel] in program.as_text()


def test_the_kernel_stands_beside_what_other_platforms_run():
    """Aimed at a GPU, and lowered for a CPU all the same: what runs is blockwise, and so is every gradient."""
    query, key = jnp.ones((1, 300, 4, 64), jnp.bfloat16), jnp.ones((1, 4, 600, 64), jnp.bfloat16)

    def loss(query):
        return attention(AttentionInputs(query, key, key), AttentionSpec(1.0)).out.astype(jnp.float32).sum()

    with override_target(aimed("cuda", "flash_gpu")):
        value, gradient = jax.jit(jax.value_and_grad(loss))(query)
    expected = jax.jit(jax.value_and_grad(loss))(query)
    assert value == expected[0]
    assert (gradient == expected[1]).all()


def test_a_kernel_that_rounds_logarithms_makes_no_gradient():
    query: Any = jax.ShapeDtypeStruct((1, 600, 4, 64), jnp.bfloat16)
    key: Any = jax.ShapeDtypeStruct((1, 4, 600, 64), jnp.bfloat16)
    inputs = AttentionInputs(query, key, key)
    target = aimed("cuda", "cudnn")
    assert (
        select_kernel(AttentionCall.of(inputs, AttentionSpec(1.0)), target.device, target.validated).kernel == "cudnn"
    )

    def loss(query, key, value):
        return attention(AttentionInputs(query, key, value), AttentionSpec(1.0)).out.astype(jnp.float32).sum()

    with override_target(target):
        forward, backward = (
            jax.jit(f).trace(*inputs[:3]).lower(lowering_platforms=("cuda",)).as_text() for f in (loss, jax.grad(loss))
        )
    assert NAMES["cudnn"] in forward
    assert NAMES["cudnn"] not in backward
