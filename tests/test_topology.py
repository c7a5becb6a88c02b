"""Programs for devices that are not here: what TPUs' compiler makes of them, and what is lowered for GPUs."""

import json
import re
import sys
from collections import Counter
from importlib.util import find_spec

import jax.numpy as jnp
import pytest

import jaxllm
from conversion.architectures import architecture
from conversion.config_reader import ConfigReader
from conversion.published import find
from jaxllm import InputError
from jaxllm.planning.programs import programs
from scripts import compile_topology
from scripts.compile_topology import compiled, devices_of, planned
from tests import tiny

for_tpus = pytest.mark.skipif(find_spec("libtpu") is None, reason="needs libtpu, TPUs' compiler")
CHIP = 15.75 * 2**30  # what a v5e has for programs
SHORT = (1, 16, 64)  # rows, prompt, capacity


def llama_2_70b():
    model = find("Llama 2 70B")
    assert model is not None
    return model.part()


def llama(layers, dim, vocab=512):
    """A dense model with layers of 16 D^2 weights."""
    sizes = {"num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": dim // 8, "num_hidden_layers": layers}
    sizes |= {"hidden_size": dim, "intermediate_size": 4 * dim, "vocab_size": vocab}
    reader = ConfigReader(tiny.CASES["llama"] | sizes)
    return architecture(reader.take("model_type")).from_hf(reader)


def both(part, mesh, rows, offload=False):
    """Prefill and decode, as planned and as compiled in bfloat16, with the arguments alike."""
    plans = planned(part, "bfloat16", mesh, rows, offload)
    found = [compiled(program) for program in programs(part, jnp.bfloat16, mesh, *rows, offload=offload)]
    for plan, program in zip(plans, found, strict=True):
        assert program.bytes.arguments == pytest.approx(plan.arguments, rel=0.02)
        assert program.bytes.host_arguments == pytest.approx(plan.host_arguments, rel=0.02)
        assert program.bytes.output == pytest.approx(plan.output, rel=0.02)
    return plans, found


@for_tpus
def test_llama_2_70b_on_16_chips():
    """All 80 layers: as many bytes as planned, in a chip's memory, and two sums over devices in every layer."""
    part, rows = llama_2_70b(), (1, 2048, 4096)
    (prefill, _), found = both(part, jaxllm.make_mesh(stage=8, tensor=2, devices=devices_of("v5e:4x4")), rows)
    for program, time in zip(found, (2048, 1), strict=True):
        assert program.bytes.arguments + program.bytes.temporaries < CHIP
        activation, (summed, passed) = f"bf16[1,{time},8192]", program.collectives[:2]
        assert summed[:2] == ("all-reduce", activation)
        assert (
            0 <= summed[2] - 2 * part.layers.num_layers // 8 <= 2
        )  # besides, the look-up and what the last stage made
        assert passed == ("collective-permute", activation, 1)
        assert sum(count for _, _, count in program.collectives[2:]) <= 6  # the choice of a token
    assert 1 / 1.5 < found[0].bytes.temporaries / prefill.temporaries < 1.5
    assert found[1].bytes.temporaries < prefill.temporaries


@for_tpus
def test_layers_of_the_host():
    """On the device are two at a time, of eight, and a part of one that is laid out anew."""
    layers, dim = 8, 1024
    mesh = jaxllm.make_mesh(tensor=1, devices=devices_of("v5e:2x2"))
    _, found = both(llama(layers, dim), mesh, SHORT, offload=True)
    for program in found:
        assert program.bytes.host_arguments >= layers * 2 * 16 * dim**2
        assert program.bytes.temporaries < 3 * 2 * 16 * dim**2


@for_tpus
def test_gathered_layers():
    """Two at a time, of six that are too large for a chip's fast memory."""
    layers, dim = 6, 4096
    _, found = both(llama(layers, dim), jaxllm.make_mesh(fsdp=4, tensor=1, devices=devices_of("v5e:2x2")), SHORT)
    assert all(program.bytes.temporaries < 2.5 * 2 * 16 * dim**2 for program in found)


@for_tpus
def test_too_little_memory():
    mesh = jaxllm.make_mesh(tensor=1, devices=devices_of("v5e:2x2"))
    with pytest.raises(InputError, match=r"^the devices' memory is too small: RESOURCE_EXHAUSTED.* \(15.75G\)\.$"):
        compiled(programs(llama(1, 1024, 2**23), jnp.bfloat16, mesh, *SHORT).decode)


def test_llama_2_70b_for_8_gpus():
    """Each has an eighth of the heads, the hidden units, the vocabulary and the cache."""
    lowered = programs(
        llama_2_70b(),
        jnp.bfloat16,
        jaxllm.make_mesh(tensor=8, devices=devices_of("cuda:8")),
        1,
        512,
        4096,
        platform="cuda",
    )
    texts = [program.as_text() for program in lowered]
    arguments = [text[text.index("@main(") : text.index(") -> (")] for text in texts]
    found = [Counter(re.findall(r"<([\dx]+)xbf16> {[^<]*<@mesh, \[(.*?)\]>", each)) for each in arguments]
    rows, layers = '{"tensor"}, {}', 80
    weights = {
        ("32000x8192", rows): 2,
        ("64x128x8192", rows + ", {}"): layers,
        ("8x128x8192", rows + ", {}"): 2 * layers,
        ("8192x64x128", '{}, {"tensor"}, {}'): layers,
        ("28672x8192", rows): 2 * layers,
        ("8192x28672", '{}, {"tensor"}'): layers,
        ("8192", "{}"): 2 * layers + 1,
    }
    cache = {("1x8x4096x128", '{}, {"tensor"}, {}, {}'): 2 * layers}
    assert found == [weights | cache] * 2
    assert all("mhlo.num_partitions = 8 : i32" in text and "tpu" not in text for text in texts)


def test_script(monkeypatch, capsys):
    def call(*words):
        monkeypatch.setattr(sys, "argv", ["compile_topology", "jaxllm/demo", *words])
        compile_topology.main()

    call("--topology", "cuda:8", "--mesh", "data=2,tensor=4", "--prompt", "16", "--context", "64", "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["mesh"], found["compiled"]) == ("data=2, tensor=4", [])
    assert [plan["arguments"] > 0 for plan in found["planned"]] == [True, True]
    for words, said in (
        (["--topology", "cuda:8", "--mesh", "tensor=16"], "mesh: tensor=16 needs 16 devices, but there are 8 (cpu)"),
        (["--topology", "abacus:4x4"], "topology abacus:4x4: "),
    ):
        with pytest.raises(SystemExit, match="2"):
            call(*words)
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"compile_topology: {said}")
