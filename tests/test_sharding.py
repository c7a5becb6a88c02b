"""One checkpoint on any mesh: the same numbers, and on each device its share of the weights and no more."""

import math
import re

import jax
import numpy as np
import pytest

import jaxllm
from conversion import convert
from jaxllm import InputError
from jaxllm.checkpoint import restore
from jaxllm.nn.parameter import named_parameters
from jaxllm.sharding import mesh_of
from tests import quick, tiny

EIGHT = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 8, "vocab_size": 104}
GPT2_EIGHT = {"n_embd": 64, "n_head": 8, "vocab_size": 97}  # a vocabulary that divides by nothing
CONFIGS = {
    "grouped": tiny.CASES["llama"] | EIGHT | {"num_key_value_heads": 2},
    "multi-head": tiny.CASES["llama-biases-tied"] | EIGHT | {"num_key_value_heads": 8},
    "gpt2": tiny.CASES["gpt2"] | GPT2_EIGHT,
    "mixture": tiny.CASES["gpt_oss"] | EIGHT,
    "latent": tiny.CASES["deepseek_v3"] | EIGHT,
}
MESHES = [{"tensor": 2}, {"tensor": 4}, {"tensor": 8}, {"data": 2, "tensor": 2}, {"fsdp": 4, "tensor": 2}]
PROMPTS = [[5, 17, 33, 2, 9, 60, 61], [7], [90, 3, 3]]
forward, quick_forward = (jit(lambda model, tokens: model(tokens)) for jit in (jax.jit, quick.jit))


@pytest.fixture(scope="module", params=CONFIGS)
def subject(request, tmp_path_factory):
    """A native checkpoint, its logits on one device, and its greedy tokens there."""
    path = tmp_path_factory.mktemp("sharded")
    native = convert(tiny.write(path / "source", CONFIGS[request.param]), path / "native")
    model = restore(native)
    tokens = np.random.default_rng(0).integers(0, 97, (4, 12), np.int32)
    return native, tokens, np.asarray(forward(model, tokens)), jaxllm.generate_tokens(model, PROMPTS, max_new_tokens=24)


@pytest.mark.parametrize("axes", MESHES, ids=str)
@pytest.mark.usefixtures("quick_generation")
def test_mesh_changes_nothing(subject, axes):
    native, tokens, logits, greedy = subject
    mesh = jaxllm.make_mesh(**{"tensor": 1, **axes})
    model = restore(native, mesh)
    assert mesh_of(model) == mesh
    with jax.set_mesh(mesh):
        ours = quick_forward(model, tokens)
    np.testing.assert_allclose(ours, logits, rtol=0, atol=2e-5 * np.abs(logits).max())
    assert jaxllm.generate_tokens(model, PROMPTS, max_new_tokens=24) == greedy


def test_each_device_holds_its_share(subject):
    native, tokens, logits, _ = subject
    model = restore(native, jaxllm.make_mesh(tensor=8))
    found = forward(model, tokens)  # right without `jax.set_mesh` as well
    np.testing.assert_allclose(found, logits, rtol=0, atol=2e-5 * np.abs(logits).max())
    whole = held = 0
    for name, parameter in named_parameters(model):
        array = parameter[...]
        shard = max(math.prod(shard.data.shape) for shard in array.addressable_shards)
        whole, held = whole + array.size, held + shard
        split = set(parameter.axes) & {"heads", "hidden", "vocab", "table"}
        grouped = "kv_heads" in parameter.axes and parameter.shape[0] == 8
        assert shard == (array.size // 8 if split or grouped else array.size), name
    replicated = sum(p[...].size for _, p in named_parameters(model) if p[...].sharding.is_fully_replicated)
    assert held == (whole - replicated) // 8 + replicated


def test_two_reductions_a_layer_and_no_gathered_weights(subject):
    """With `tensor` alone a decode step reduces after attention and after the feed-forward; weights stay put."""
    native, *_ = subject
    mesh = jaxllm.make_mesh(tensor=4)
    model = restore(native, mesh)
    with jax.set_mesh(mesh):
        text = forward.lower(model, np.zeros((2, 8), np.int32)).compile().as_text() or ""
    pattern = re.compile(r"= (\S+) (all-\w+|reduce-scatter|collective-permute)(?:-start)?\(")
    collectives = pattern.findall(text)
    assert collectives == pattern.findall(text[text.index("\nENTRY") :])  # none in a loop, at every turn of it
    layers, embedding = len(model.layers), 2  # the embedding's look-up, and the logits of an uneven vocabulary
    assert 2 * layers <= sum(kind == "all-reduce" for _, kind in collectives) <= 2 * layers + embedding
    largest = max(
        math.prod(map(int, re.findall(r"\d+", re.sub(r"\{.*", "", shape[shape.index("[") :]))))
        for shape, _ in collectives
    )
    assert largest <= 2 * 8 * 104  # activations [B T D] or logits [B T V], never a weight


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"tensor": 16}, "needs 16 devices, but there are 8"),
        ({"data": 3}, "does not divide 8 devices"),
        ({"data": -1}, "does not divide"),
        ({"tensor": 0}, "tensor=0: must be a positive number"),
        ({"tensor": "2"}, "tensor='2': must be a whole number"),
        ({"stage": 2}, "pipelines are not supported yet"),
    ],
)
def test_impossible_meshes(axes, message):
    with pytest.raises(InputError, match=message):
        jaxllm.make_mesh(**axes)


def test_axis_that_does_not_divide_is_named(tmp_path):
    native = convert(tiny.write(tmp_path / "source", tiny.CASES["llama"]), tmp_path / "native")
    with pytest.raises(InputError, match=r"layers\.0\.attention\.\w+\.weight: 6 heads cannot be split over tensor=4"):
        restore(native, jaxllm.make_mesh(tensor=4))
