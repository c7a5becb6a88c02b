"""One checkpoint on any mesh: the same numbers, and on each device its share of the weights and no more."""

import math
from collections import Counter

import numpy as np
import pytest

import jaxllm
from conversion import convert
from jaxllm.checkpoint import restore, stored
from jaxllm.nn.parameter import named_parameters
from jaxllm.parallel import pipeline
from jaxllm.sharding import mesh_of
from tests import quick, tiny

SIZES = {"vocab_size": 1024, "hidden_size": 128, "num_attention_heads": 8, "num_hidden_layers": 3}
GPT2 = {"vocab_size": 1024, "n_embd": 128, "n_layer": 4, "n_head": 8, "n_positions": 32}
CONFIGS = {
    "dense": tiny.CASES["gpt2"] | GPT2 | {"vocab_size": 1019},  # a vocabulary that divides by nothing
    "grouped": tiny.CASES["llama"] | SIZES | {"num_key_value_heads": 4, "intermediate_size": 768},
    "multi-query": tiny.CASES["gpt_bigcode"] | GPT2,
    "alibi": tiny.CASES["bloom"] | {"vocab_size": 1024, "hidden_size": 128, "n_layer": 3},
    "mixture": tiny.CASES["gpt_oss"]
    | SIZES
    | {"num_key_value_heads": 4, "num_hidden_layers": 4, "intermediate_size": 64},
    "latent": tiny.CASES["deepseek_v3"] | SIZES | {"moe_intermediate_size": 64, "intermediate_size": 64},
}
MESHES = [
    {"tensor": 8},
    {"fsdp": 8},
    {"stage": 2},
    {"data": 2, "tensor": 4},
    {"stage": 2, "tensor": 4},
    {"fsdp": 2, "stage": 2, "tensor": 2},
    {"expert": 2, "tensor": 4},
    {"data": 2, "stage": 2, "expert": 2},
]
PROMPTS = [[5, 17, 33, 2, 9, 60, 61], [7], [90, 3, 3], [4, 4, 88, 100, 23]]
forward = quick.jit(lambda model, tokens: model(tokens))


@pytest.fixture(scope="module", params=CONFIGS)
def subject(request, tmp_path_factory):
    """A native checkpoint, its logits on one device, and its greedy tokens there."""
    path = tmp_path_factory.mktemp("sharded")
    native = convert(tiny.write(path / "source", CONFIGS[request.param]), path / "native")
    model = restore(native)
    tokens = np.random.default_rng(0).integers(0, 500, (8, 12), np.int32)
    return native, tokens, np.asarray(forward(model, tokens)), jaxllm.generate_tokens(model, PROMPTS, max_new_tokens=16)


@pytest.mark.parametrize("axes", MESHES, ids=lambda axes: ",".join(f"{axis}={n}" for axis, n in axes.items()))
def test_mesh_changes_nothing(subject, axes, monkeypatch, quick_generation):
    monkeypatch.setattr(pipeline, "MICROBATCH_TOKENS", 8)
    native, tokens, logits, greedy = subject
    mesh = jaxllm.make_mesh(**{"tensor": 1, **axes})
    model = restore(native, mesh)
    assert mesh_of(model) == mesh
    found = forward(model, tokens)  # right without `jax.set_mesh`, which generation sets
    np.testing.assert_allclose(found, logits, rtol=0, atol=2e-5 * np.abs(logits).max())
    assert jaxllm.generate_tokens(model, PROMPTS, max_new_tokens=16) == greedy
    whole = sum(math.prod(array.shape) * array.dtype.itemsize for array in stored(native).values())
    assert max(bytes_per_device(model)) <= 1.3 * whole / (mesh.size / mesh.shape["data"])


def bytes_per_device(model):
    """Bytes of weights on each device."""
    found = Counter()
    for _, parameter in named_parameters(model):
        for shard in parameter[...].addressable_shards:
            found[shard.device] += shard.data.nbytes
    return found.values()
