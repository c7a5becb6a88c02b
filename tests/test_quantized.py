"""Quantised weights arrive as what they stand for, bit for bit, and layers that predict further tokens are left out."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from conversion import convert
from conversion.files import Tensor
from conversion.quantized import unquantized
from conversion.source import open_source
from jaxllm import InputError
from jaxllm.checkpoint import restore
from jaxllm.nn.parameter import named_parameters
from tests import tiny

MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [16, 24]}


def tensor(array: np.ndarray) -> Tensor:
    return Tensor(array.shape, array.dtype, lambda: array, Path("model.safetensors"))


def read(settings: dict, **arrays: np.ndarray) -> dict[str, np.ndarray]:
    _, quantization = unquantized({"quantization_config": settings})
    assert quantization is not None
    tensors = quantization.present({name.replace("__", "."): tensor(array) for name, array in arrays.items()})
    for entry in tensors.values():
        assert (entry.read().shape, entry.read().dtype) == (entry.shape, entry.dtype)
    return {name: entry.read() for name, entry in tensors.items()}


def floats8(random, shape: tuple[int, ...]) -> np.ndarray:
    return (40 * random.standard_normal(shape)).astype(ml_dtypes.float8_e4m3fn)


@pytest.mark.torch
def test_mxfp4_is_what_transformers_makes_of_it():
    torch, mxfp4 = pytest.importorskip("torch"), pytest.importorskip("transformers.integrations.mxfp4")
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (3, 40, 8, 16), np.uint8)
    scales = random.permutation(np.arange(960) % 256).astype(np.uint8).reshape(3, 40, 8)  # every power there is
    ours = read(MXFP4, w_blocks=blocks, w_scales=scales)["w"]
    theirs = mxfp4.convert_moe_packed_tensors(torch.from_numpy(blocks), torch.from_numpy(scales))
    assert ours.tobytes() == theirs.view(torch.int16).numpy().tobytes()


@pytest.mark.torch
def test_fp8_is_what_transformers_makes_of_it():
    torch, fp8 = pytest.importorskip("torch"), pytest.importorskip("transformers.integrations.finegrained_fp8")
    random = np.random.default_rng(0)
    weight, scales = floats8(random, (48, 72)), np.exp(random.standard_normal((3, 3))).astype(np.float32)
    ours = read(FP8, m__weight=weight, m__weight_scale_inv=scales)["m.weight"]
    theirs = torch.from_numpy(weight.view(np.uint8)).view(torch.float8_e4m3fn)
    theirs = fp8.Fp8Dequantize(None)._dequantize_one(theirs, torch.from_numpy(scales), torch.bfloat16)
    assert ours.tobytes() == theirs.view(torch.int16).numpy().tobytes()


def test_fp8_blocks_at_the_edge():
    random = np.random.default_rng(0)
    weight, scales = floats8(random, (35, 50)), random.random((3, 3), np.float32)
    ours = read(FP8, m__weight=weight, m__weight_scale_inv=scales, m__bias=scales)
    factors = scales[np.arange(35)[:, None] // 16, np.arange(50) // 24]
    expected = (weight.astype(np.float32) * factors).astype(ml_dtypes.bfloat16)
    assert ours["m.weight"].tobytes() == expected.tobytes()
    assert ours["m.bias"] is scales


@pytest.mark.parametrize(
    ("settings", "arrays", "message"),
    [
        (FP8 | {"activation_scheme": "static"}, {}, "activation_scheme='static' is not supported"),
        (FP8 | {"weight_block_size": [128]}, {}, "must be two whole numbers"),
        (FP8 | {"weight_block_size": None}, {}, "weight_block_size"),
        (MXFP4 | {"group_size": 16}, {}, "quantization_config: group_size=16 is not supported"),
        (MXFP4, {"w_scales": np.zeros((2, 3, 4), np.uint8)}, "w_scales: in model.safetensors, but not w_blocks"),
        (MXFP4, {"w_scales": np.zeros((2, 3), np.uint8), "w_blocks": np.zeros((2, 3, 4), np.uint8)}, "four dimensions"),
        (FP8, {"m__weight_scale_inv": np.ones((9, 9), "f"), "m__weight": np.ones((9, 9), "f")}, "do not fit together"),
    ],
)
def test_misfits_are_named(settings, arrays, message):
    with pytest.raises(InputError, match=message):
        read(settings, **arrays)


def test_other_methods_are_refused(tmp_path):
    path = tiny.write(tmp_path / "gptq", tiny.CASES["llama"] | {"quantization_config": {"quant_method": "gptq"}})
    with pytest.raises(InputError, match=r"quantization_config=\{'quant_method': 'gptq'\} is not supported"):
        convert(path, tmp_path / "native")


def test_published_deepseek(tmp_path):
    """Its weights in fp8, its corrections in float32, and a layer behind the last."""
    path = tiny.write(tmp_path / "plain", tiny.CASES["deepseek_v3"], dtype=tiny.BFLOAT16)
    tensors, random = load_file(path / "model.safetensors"), np.random.default_rng(0)
    correction = "model.layers.1.mlp.gate.e_score_correction_bias"
    tensors[correction] = tensors[correction].astype(np.float32) + np.float32(1e-4)
    name = "model.layers.0.self_attn.o_proj.weight"
    tensors[name], tensors[name + "_scale_inv"] = floats8(random, (48, 84)), random.random((3, 4), np.float32)
    further = {n.replace("layers.2.", "layers.3."): array for n, array in tensors.items() if "layers.2." in n}
    save_file(tensors | further, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(tiny.CASES["deepseek_v3"] | {"quantization_config": FP8}))
    with pytest.raises(
        InputError, match=r"model.layers.3.\S+: in model.safetensors, but no part of the model takes it"
    ):
        convert(path, tmp_path / "native")
    further["model.layers.3.eh_proj.weight"] = np.ones((48, 96), tiny.BFLOAT16)
    save_file(tensors | further, path / "model.safetensors")
    assert open_source(path).layout == "fp8"
    model = restore(convert(path, tmp_path / "native"))
    ours = {name: np.asarray(parameter[...]) for name, parameter in named_parameters(model)}
    assert model.dtype == tiny.BFLOAT16
    assert ours["layers.1.feed_forward.router.score_correction_bias"].tobytes() == tensors[correction].tobytes()
    half = restore(convert(path, tmp_path / "half", dtype="float16"))
    assert half.layers[1].feed_forward.router.score_correction_bias.dtype == np.float32
    assert half.dtype == np.float16
