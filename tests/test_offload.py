"""Layers in host memory: the same tokens, and on the device two layers at a time, whatever their number."""

import pytest

import jaxllm
from conversion import convert
from jaxllm.checkpoint import restore
from jaxllm.nn.parameter import named_parameters
from tests import tiny

CASES = {name: tiny.CASES[name] for name in ("llama", "gpt_oss", "deepseek_v3")}
PROMPTS = [[5, 17, 33, 2, 9, 60, 61], [7], [90, 3, 3]]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("axes", [None, {"tensor": 2}, {"stage": 2, "fsdp": 2}], ids=str)
def test_offloaded_layers_change_nothing(case, axes, tmp_path, quick_generation):
    native = convert(tiny.write(tmp_path / "source", CASES[case]), tmp_path / "native")
    mesh = axes and jaxllm.make_mesh(**{"tensor": 1, **axes})
    model = restore(native, mesh, offload=True)
    kinds = {name: parameter[...].sharding.memory_kind for name, parameter in named_parameters(model)}
    assert {kind for name, kind in kinds.items() if name.startswith("layers.")} == {"pinned_host"}
    assert {kind for name, kind in kinds.items() if not name.startswith("layers.")} == {"device"}
    expected = jaxllm.generate_tokens(restore(native), PROMPTS, max_new_tokens=8)
    assert jaxllm.generate_tokens(model, PROMPTS, max_new_tokens=8) == expected
