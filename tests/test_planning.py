"""What a plan says: published sizes, bytes as they are on real devices, and a mesh with its reason."""

import json
import math
import warnings
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

import jaxllm
from conversion import convert
from conversion.published import find, near, published
from jaxllm import InputError, planning, pretrained
from jaxllm.checkpoint import restore
from jaxllm.cli import main
from jaxllm.models.decoder import Decoder
from jaxllm.nn.parameter import named_parameters
from jaxllm.planning import Chip, Workload, advise, chip, chip_of, memory
from jaxllm.planning.activations import activation_bytes
from jaxllm.planning.memory import cache_bytes, local_shape, model_bytes
from jaxllm.planning.mesh import MeshShape
from jaxllm.planning.speed import decode_seconds
from jaxllm.planning.weights import parameter_count
from jaxllm.sharding import mesh_of
from tests import tiny

EIGHT = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 8, "vocab_size": 104}
CONFIGS = {
    "grouped": tiny.CASES["llama"] | EIGHT | {"num_key_value_heads": 2},
    "multi-query": tiny.CASES["gpt_bigcode"] | {"n_embd": 64, "n_head": 8, "n_inner": 96, "vocab_size": 97},
    "tied": tiny.CASES["gpt2"] | {"n_embd": 64, "n_head": 8, "vocab_size": 97},
    "mixture": tiny.CASES["gpt_oss"] | EIGHT,
    "latent": tiny.CASES["deepseek_v3"] | EIGHT,
}
ONE = MeshShape({"data": 1, "fsdp": 1, "stage": 1, "tensor": 1, "expert": 1})


def part_of(name: str):
    model = find(name)
    assert model is not None, name
    return model.part()


def test_published_sizes():
    """To the last parameter, or to 0.5% where only a rounded number is published."""
    for model in published():
        found, rounded = parameter_count(model.part()), model.parameters % 10_000_000 == 0
        assert abs(found - model.parameters) <= rounded * 0.005 * model.parameters, model.name


def test_names_are_forgiving():
    for name in ("llama-2-70b", "Llama-2 70B", "meta-llama/Llama-2-70b-chat-hf", "LLAMA2_70B"):
        assert find(name) == find("Llama 2 70B")
    assert find("Mistral-7B-Instruct-v0.2") != find("mistral 7b") == find("mistralai/Mistral-7B-v0.1")
    assert find("command-r+") != find("command-r") is not None
    owners: dict[str, set[str]] = {}
    for model in published():
        for name in model.names:
            owners.setdefault(find(name).name, set()).add(model.name)  # pyright: ignore[reportOptionalMemberAccess]
    assert all(owner == {name} for name, owner in owners.items())
    assert find("lama 2 70b") is None
    assert near("lama 2 70b")[0] == "Llama 2 70B"


def fullest(tree) -> int:
    """The bytes on the device that holds the most of some arrays."""
    held: dict[Any, int] = Counter()
    for array in jax.tree.leaves(tree):
        for shard in array.addressable_shards:
            held[shard.device] += shard.data.nbytes
    return max(held.values())


@pytest.mark.parametrize("case", CONFIGS)
def test_predicted_is_actual(case, tmp_path):
    native = convert(tiny.write(tmp_path / "source", CONFIGS[case]), tmp_path / "native")
    for mesh in (jaxllm.make_mesh(expert=2, tensor=4), jaxllm.make_mesh(fsdp=2, stage=2, tensor=2)):
        model = restore(native, mesh)
        assert model_bytes(model.config, "float32", mesh) == pytest.approx(fullest(model), rel=0.02)
    with jax.set_mesh(mesh):
        read = jax.jit(lambda model, tokens: model.hidden(tokens, cache=model.new_cache(4, 128))[1].layers)
        entries = read(model, np.ones((4, 8), np.int32))
    assert cache_bytes(model.config, "float32", mesh, 4, 128) == pytest.approx(fullest(entries), rel=0.02)


def test_quantized_bytes():
    """int8 has a scale for each row of a matrix, int4 for each 32 weights of one; norms stay as they are."""
    config = part_of("Llama 2 7B")
    d, hidden, vocab, layers = 4096, 11008, 32000, 32
    weights, norms = 2 * vocab * d + layers * (4 * d * d + 3 * d * hidden), (2 * layers + 1) * d
    rows = 2 * vocab + layers * (5 * d + 2 * hidden)
    assert model_bytes(config, "int8", ONE) == weights + 2 * rows + 2 * norms
    assert model_bytes(config, "int4", ONE) == weights / 2 + 2 * weights / 32 + 2 * norms
    router = 4 * 8 * 4096 * 32  # in float32 in any case
    assert model_bytes(part_of("Mixtral 8x7B"), "int4", ONE) > 46.7e9 * 9 / 16 + router * 0.8


def test_latents_are_expanded_beside_what_is_read():
    """A later chunk of a prompt expands more of the cache than its own tokens: `LATENT_BLOCK`, however long."""
    config = part_of("deepseek-v2-lite")
    block = config.layers.blocks[0]
    latent: Any = block.attention
    blocks = (replace(block, attention=replace(latent, heads=128)),)
    config = replace(config, layers=replace(config.layers, blocks=blocks))
    few, more, most = (activation_bytes(config, "bfloat16", ONE, 1, size, size) for size in (2048, 4096, 32768))
    assert more - few == 2 * 2048 * 128 * (latent.nope_dim + latent.rope_dim + latent.value_dim)
    assert most == more


def test_pipelines_and_experts():
    """Layers that do not divide leave a slot free; each kind of layer has slots of its own."""
    config = part_of("Llama 3.1 405B")  # 126 layers
    layer = (model_bytes(config, "bfloat16", ONE) - 2 * 2 * 128256 * 16384 - 2 * 16384) / 126
    staged = model_bytes(config, "bfloat16", MeshShape({**ONE.shape, "stage": 4}))
    assert staged == 32 * layer + 2 * 2 * 128256 * 16384 / 4 + 2 * 16384
    for name, stages in (("Gemma 2 2B", 4), ("DeepSeek-V2-Lite", 2), ("gpt-oss 20B", 5)):
        mesh = MeshShape({**ONE.shape, "stage": stages, "tensor": 2})
        weights = named_parameters(Decoder(part_of(name), rngs=None, dtype=np.float16, mesh=mesh))
        actual = (math.prod(local_shape(n, w.axes, w.shape, mesh)) * w.dtype.itemsize for n, w in weights)
        assert model_bytes(part_of(name), "float16", mesh) == sum(actual)
    whole, shared = (model_bytes(part_of("DeepSeek-V3"), "int8", MeshShape({**ONE.shape, "expert": n})) for n in (1, 8))
    assert shared == pytest.approx(whole / 8, rel=0.02)


@pytest.mark.parametrize(
    ("name", "devices", "memory", "mesh", "reason"),
    [
        ("Llama 2 70B", 8, 80e9, "tensor=8", "every device has its share of every layer"),
        ("Falcon 7B", 8, 80e9, "data=8", "tensor=8 cannot be: layers.0.attention.output.weight: 71 heads"),
        ("Falcon 40B", 3, 40e9, "stage=3", "tensor=3 cannot be"),
        ("Qwen2.5 7B", 8, 16e9, "data=2, tensor=4", "28 heads cannot be split over tensor=8"),
        ("GPT-2", 4, 16e9, "data=4", "tensor=4 takes"),
        ("GPT-2", 1, 16e9, "one device", "there is one device"),
        ("Llama 3.1 405B", 8, 80e9, None, "22.0 GB too much; offload=True"),
    ],
)
def test_advice(name, devices, memory, mesh, reason):
    advice = advise(Workload(part_of(name), "bfloat16", 1, 4096, memory, 3.35e12), devices)
    assert advice.fits == (mesh is not None)
    assert mesh in (None, str(advice.mesh))
    assert advice.mesh.size == devices
    assert reason in advice.reason


def test_bound_is_what_memory_allows():
    def step(name, batch=1, **extents):
        return decode_seconds(
            Workload(part_of(name), "bfloat16", batch, 64, 1e12, 1e12), MeshShape({**ONE.shape, **extents})
        )

    read = 2 * (6738415616 - 32000 * 4096) + 2 * 2 * 32 * 64 * 4096  # the embedding is looked up in; and the cache
    assert step("Llama 2 7B") == read / 1e12
    assert step("Llama 2 7B", stage=2) == pytest.approx(step("Llama 2 7B"), rel=0.02)  # one half after the other
    assert step("Llama 2 7B", tensor=8) == pytest.approx(step("Llama 2 7B") / 8, rel=0.01)
    assert step("Mixtral 8x7B") * 1e12 == pytest.approx(2 * 12.75e9, rel=0.01)  # two experts of eight
    assert step("Mixtral 8x7B", batch=64) * 1e12 == pytest.approx(2 * 46.5e9, rel=0.02)  # all of them


def test_plan_of_the_command_line(capsys):
    words = "plan llama-2-70b --devices 8 --memory 80GB --mesh tensor=8 --context 16000 --batch 1".split()
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    stored = {row["dtype"]: row for row in found["dtypes"]}
    assert stored["bfloat16"]["weights"] == pytest.approx(2 * 68976648192 / 8, rel=0.001)
    assert stored["bfloat16"]["cache"] == 2 * 2 * 80 * 16384 * 128  # one of 8 key-value heads, in room for 16,384
    assert stored["int4"]["weights"] == pytest.approx(68976648192 / 8 * 4.5 / 8, rel=0.001)
    assert stored["bfloat16"]["tokens_per_second"] == pytest.approx(3.35e12 / 17.85e9, rel=0.01)
    assert found["advised_mesh"]["tensor"] == 8
    assert found["notes"] == ["a context of 16,000 is beyond the 4,096 that the model was made for"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "(the bandwidth of an h100 assumed)" in out
    assert "advised for bfloat16: mesh tensor=8: " in out
    assert main(["plan", "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(published())


def test_plan_of_a_checkpoint(checkpoint_of, tmp_path, capsys):
    source, sizes = checkpoint_of("llama", "bfloat16"), []
    for model in (source, convert(source, tmp_path / "native")):
        assert main(["plan", str(model), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        sizes.append(next(row["weights"] for row in found["dtypes"] if row["dtype"] == "bfloat16"))
    assert sizes[0] == sizes[1] == fullest(restore(tmp_path / "native"))


def test_mesh_auto(checkpoint_of, capsys, monkeypatch):
    source = checkpoint_of("llama")
    model, _ = jaxllm.load(source, mesh="auto")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("jaxllm: placed on data=8: ")
    assert mesh_of(model) == jaxllm.make_mesh(data=8, tensor=1)
    with pytest.raises(InputError, match="leave out offload"):
        jaxllm.load(source, mesh="auto", offload=True)
    with pytest.raises(InputError, match='or "auto"'):
        jaxllm.load(source, mesh="best")  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(pretrained, "chip_of", lambda device: Chip("small", 1e4, 1e9))
    with pytest.raises(InputError, match=r"8 devices of 10.0 kB each: float32 .* kB too much; offload=True"):
        jaxllm.load(source, mesh="auto")
    code = main(["generate", str(source), "hi", "--mesh", "auto"])
    assert (code, "does not fit" in capsys.readouterr().err) == (2, True)


def test_large_parameters_that_nothing_splits(tmp_path, monkeypatch):
    """A vocabulary of 97 in vectors of 66 divides by 4 in neither way."""
    config = tiny.CASES["gpt2"] | {"n_embd": 66, "n_head": 6, "n_inner": 96, "vocab_size": 97}
    source = tiny.write(tmp_path / "source", config)
    monkeypatch.setattr(memory, "LARGE_BYTES", 10_000)
    mesh = jaxllm.make_mesh(tensor=6, devices=jax.devices()[:6])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jaxllm.load(source, jaxllm.make_mesh(data=2, tensor=1))  # a mesh that is to split none
    with pytest.warns(UserWarning, match=r"whole on every device of the mesh tensor=6: position.weight"):
        jaxllm.load(source, mesh)


def test_chips():
    assert chip("H100").memory == chip("NVIDIA H100 80GB HBM3").memory == 80e9
    gpu = SimpleNamespace(platform="gpu", device_kind="NVIDIA H200", memory_stats=lambda: {"bytes_limit": 100e9})
    assert (chip_of(gpu).memory, chip_of(gpu).bandwidth) == (100e9, 4.8e12)
    tpu = SimpleNamespace(platform="tpu", device_kind="TPU v5 lite", memory_stats=lambda: None)
    assert chip_of(tpu).memory == 16 * 2**30
    with pytest.raises(InputError, match="'abacus': how much memory it has is not known"):
        chip_of(SimpleNamespace(platform="abacus", device_kind="abacus", memory_stats=lambda: None))
    assert math.isclose(sum(chip_of(device).memory for device in jax.devices()), 8 * chip_of(jax.devices()[0]).memory)
    assert planning.plan("x", part_of("gpt2"), chip("t4")).fits
