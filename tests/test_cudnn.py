"""What is asked of cuDNN means what the reference means; what it cannot do is refused."""

import json
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.config import ALiBiConfig
from jaxllm.kernels.call import AttentionCall, Device
from jaxllm.kernels.cudnn import cudnn, unsupported_reason
from jaxllm.kernels.reference import reference
from jaxllm.kernels.spec import MIN_LSE, AttentionInputs, AttentionSpec

A100, H100 = (Device("cuda", name, capability) for name, capability in (("A100", 8.0), ("H100", 9.0)))
LENGTHS = np.array([40, 3, 0], np.int32)
SERVED = {
    "causal": (20, AttentionSpec(0.2), {}),
    "causal, fewer keys": (60, AttentionSpec(0.2), {}),
    "causal lengths": (20, AttentionSpec(0.2), {"lengths": LENGTHS}),
    "window": (20, AttentionSpec(0.2, window=5), {}),
    "window, lengths": (20, AttentionSpec(0.2, window=5), {"lengths": LENGTHS}),
    "all keys": (20, AttentionSpec(0.2, causal=False), {}),
    "lengths": (20, AttentionSpec(0.2, causal=False), {"lengths": LENGTHS, "offsets": LENGTHS}),
    "keys are values": (20, AttentionSpec(0.2), {"value": None}),
}
MASKS = {"causal": "CAUSAL", "window, lengths": "PADDING_CAUSAL", "lengths": "PADDING", "all keys": "NO_MASK"}


def arrays(queries, dtype=jnp.bfloat16, keys=40, head_dim=16, **others) -> AttentionInputs:
    random = np.random.default_rng(0)
    shapes = (3, queries, 4, head_dim), (3, 2, keys, head_dim), (3, 2, keys, head_dim)
    query, key, value = (jnp.asarray(random.standard_normal(shape), dtype) for shape in shapes)
    return AttentionInputs(query, key, value)._replace(
        **{k: None if v is None else jnp.asarray(v) for k, v in others.items()}
    )


@pytest.mark.parametrize("case", SERVED)
def test_equals_reference(case):
    """With XLA in cuDNN's place, which takes the same arguments."""
    queries, scores, others = SERVED[case]
    assert unsupported_reason(AttentionCall.of(arrays(queries, **others), scores), A100) is None
    inputs = arrays(queries, jnp.float32, **others)
    found, expected = cudnn(inputs, scores, implementation="xla"), reference(inputs, scores)
    np.testing.assert_allclose(found.out, expected.out, rtol=0, atol=2e-6 * np.abs(expected.out).max())
    nothing = expected.lse <= MIN_LSE
    assert (found.lse <= MIN_LSE)[nothing].all()
    np.testing.assert_allclose(found.lse[~nothing], expected.lse[~nothing], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("case", MASKS)
def test_lowers(case, monkeypatch):
    """To one call of cuDNN, of whichever version, with the mask that was meant."""
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91000)
    queries, scores, others = SERVED[case]
    program = jax.jit(partial(cudnn, spec=scores)).trace(arrays(queries, **others))
    text = program.lower(lowering_platforms=("cuda",)).as_text()
    (found,) = re.findall(r'@__cudnn\$fmhaSoftmax\(.*?backend_config = "(.*?)"', text)
    found = json.loads(found.replace("\\22", '"'))["cudnn_fmha_backend_config"]
    assert (found["mask_type"], found["sliding_window_length"]) == (MASKS[case], scores.window or 0)
    assert found["fmha_scale"] == scores.scale


@pytest.mark.parametrize(
    ("device", "inputs", "scores", "said"),
    [
        (Device("cuda", "T4", 7.5), arrays(2), AttentionSpec(1.0), "8.0"),
        (Device("rocm"), arrays(2), AttentionSpec(1.0), "NVIDIA"),
        (A100, arrays(2, jnp.float32), AttentionSpec(1.0), "not float32"),
        (A100, arrays(2, head_dim=192), AttentionSpec(1.0), "up to 128, not 192"),
        (H100, arrays(2, head_dim=100), AttentionSpec(1.0), "up to 256, not 100"),
        (H100, arrays(2)._replace(value=None), AttentionSpec(1.0, value_dim=8), "values"),
        (H100, arrays(2)._replace(key_scale=jnp.ones((3, 40, 2))), AttentionSpec(1.0), "as wide as"),
        (H100, arrays(2, sinks=np.zeros(4)), AttentionSpec(1.0), "sinks"),
        (H100, arrays(2), AttentionSpec(1.0, softcap=2.0), "soft cap"),
        (H100, arrays(2), AttentionSpec(1.0, chunk=4), "chunks"),
        (H100, arrays(2), AttentionSpec(1.0, alibi=ALiBiConfig((0.5,) * 4)), "ALiBi"),
        (H100, arrays(2, offsets=LENGTHS), AttentionSpec(1.0), "position 0"),
        (H100, arrays(1, lengths=LENGTHS), AttentionSpec(1.0, causal=False), "decode step"),
        (H100, arrays(2), AttentionSpec(1.0, causal=False, window=3), "windows are causal"),
        (H100, arrays(50), AttentionSpec(1.0, window=3), "no more queries"),
        (H100, arrays(2, jnp.float16, head_dim=256), AttentionSpec(1.0), None),
    ],
)
def test_refusal(device, inputs, scores, said):
    found = unsupported_reason(AttentionCall.of(inputs, scores), device)
    assert found is None if said is None else said in (found or "")
