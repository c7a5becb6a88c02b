"""What is exported is what was converted, bit for bit, and Transformers loads it."""

import json
import shutil
import signal
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from conversion import convert, export, forecast
from conversion.architectures import architecture, names
from conversion.source import open_source
from jaxllm import InputError, checkpoint
from tests import tiny

CARRIED = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def arrays(path):
    return {name: tensor.read() for name, tensor in open_source(path).tensors.items()}


def check_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes(), name


def read(path, name="config.json"):
    return json.loads((path / name).read_text())


@pytest.mark.parametrize("case", tiny.CASES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_bit_returns(case, dtype, checkpoint_of, tmp_path):
    source = checkpoint_of(case, dtype)
    exported = export(convert(source, tmp_path / "native"), tmp_path / "exported")
    check_same(arrays(exported), arrays(source))
    config = read(exported)
    assert config.pop("architectures")
    assert config == read(source)


@pytest.fixture
def native(checkpoint_of, tmp_path):
    return convert(checkpoint_of("llama", "bfloat16"), tmp_path / "native")


def test_files_come_along(checkpoint_of, tmp_path):
    """With every byte; what is jaxllm's own stays behind."""
    source = shutil.copytree(checkpoint_of("llama"), tmp_path / "source")
    for name in CARRIED:
        (source / name).write_text('{"eos_token_id":  5}')
    native = convert(source, tmp_path / "native")
    (native / "model.safetensors").write_text("in the way")
    exported = export(native, tmp_path / "exported")
    check_same(arrays(exported), arrays(source))
    assert {file.name for file in exported.iterdir()} == {file.name for file in source.iterdir()}
    assert all((exported / name).read_bytes() == (source / name).read_bytes() for name in CARRIED)


@pytest.mark.parametrize("size", [30_000, "30KB", "30 kb"])
def test_shards(native, checkpoint_of, tmp_path, size):
    exported = export(native, tmp_path / "exported", max_shard_size=size)
    index = read(exported, "model.safetensors.index.json")
    files = sorted(exported.glob("*.safetensors"))
    assert [file.name for file in files] == [f"model-{i:05}-of-{len(files):05}.safetensors" for i in range(1, 5)]
    assert all(sum(array.nbytes for array in load_file(file).values()) <= 30_000 for file in files)
    expected = arrays(checkpoint_of("llama", "bfloat16"))
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in expected.values())
    assert index["weight_map"] == {name: file.name for file in files for name in load_file(file)}
    check_same(arrays(exported), expected)
    layer = {name.split(".")[2]: file for name, file in index["weight_map"].items() if ".layers." in name}
    assert sorted(layer, key=int) == sorted(layer, key=lambda i: (layer[i], int(i)))  # layer by layer


def test_a_tensor_larger_than_a_shard_has_its_own(native, checkpoint_of, tmp_path):
    exported = export(native, tmp_path / "exported", max_shard_size=1)
    assert len(list(exported.glob("*.safetensors"))) == len(arrays(exported))


def test_mixed_dtypes(checkpoint_of, tmp_path):
    """Each tensor keeps its own, whatever the rest has; odd sizes of narrow ones move no wide one off its alignment."""

    def mix(tensors):
        kinds = [np.float16, np.float32, ml_dtypes.bfloat16]
        fused = {name: kinds[i % 3] for i, name in enumerate(sorted(tensors))}
        return {name: array.astype(fused[name]) for name, array in tensors.items()}

    for case in ("llama-odd-sizes", "gpt2-scales"):
        source = shutil.copytree(checkpoint_of(case), tmp_path / case)
        tiny.rewrite(source, change_tensors=mix)
        native = convert(source, tmp_path / f"{case}-native")
        assert len({leaf.dtype for leaf in checkpoint.stored(native).values()}) == 3
        exported = export(native, tmp_path / f"{case}-exported")
        check_same(arrays(exported), arrays(source))
        check_same(load_file(exported / "model.safetensors"), load_file(source / "model.safetensors"))


def test_bit_patterns_survive(checkpoint_of, tmp_path):
    """Signalling NaNs, infinities and negative zeros too."""
    source = shutil.copytree(checkpoint_of("llama", "bfloat16"), tmp_path / "source")
    odd = np.random.default_rng(0).integers(0, 2**16, (101, 48), np.uint16).view(ml_dtypes.bfloat16)
    tiny.rewrite(source, change_tensors=lambda tensors: tensors | {"lm_head.weight": odd})
    check_same(arrays(export(convert(source, tmp_path / "native"), tmp_path / "exported")), arrays(source))


def test_experts_of_different_dtypes(checkpoint_of, tmp_path):
    """They are one array of ours, in a dtype that holds the values of all."""

    def mix(tensors):
        kinds = [np.float16, ml_dtypes.bfloat16]
        return {name: array.astype(kinds[".1." in name]) for name, array in tensors.items()}

    source = shutil.copytree(checkpoint_of("mixtral"), tmp_path / "mixtral")
    tiny.rewrite(source, change_tensors=mix)
    found = arrays(export(convert(source, tmp_path / "native"), tmp_path / "exported"))
    for name, array in arrays(source).items():
        assert np.array_equal(found[name].astype(np.float32), array.astype(np.float32)), name
    convert(source, tmp_path / "narrow", dtype="bfloat16")


@pytest.mark.parametrize("key", ["torch_dtype", "dtype", None])
def test_another_dtype_is_said(checkpoint_of, tmp_path, key):
    source = shutil.copytree(checkpoint_of("llama"), tmp_path / "source")
    tiny.rewrite(source, lambda config: config | ({key: "float32"} if key else {}))
    exported = export(convert(source, tmp_path / "native", dtype="bfloat16"), tmp_path / "exported")
    config = read(exported)
    assert [config.get(name) for name in ("torch_dtype", "dtype")].count("bfloat16") == bool(key)
    assert {array.dtype.name for array in arrays(exported).values()} == {"bfloat16"}
    assert config.keys() - {"architectures"} == read(source).keys()


def test_published_gpt2_gets_its_prefix_and_one_head(checkpoint_of, tmp_path):
    source = shutil.copytree(checkpoint_of("gpt2"), tmp_path / "gpt2")
    expected = arrays(source)

    def publish(tensors):
        plain = {name.removeprefix("transformer."): array for name, array in tensors.items()}
        masks = {f"h.{i}.attn.bias": np.tri(128, dtype=np.float32)[None, None] for i in range(3)}
        return plain | masks | {"lm_head.weight": plain["wte.weight"].copy()}

    tiny.rewrite(source, change_tensors=publish)
    check_same(arrays(export(convert(source, tmp_path / "native"), tmp_path / "exported")), expected)


@pytest.mark.torch
def test_meta_layout(tmp_path):
    """Meta's shards come out as the model they were made from, with the config that Meta never wrote."""
    transformers = pytest.importorskip("transformers")
    from tests import test_source

    model = test_source.tiny("llama")
    (tmp_path / "meta").mkdir()
    test_source.write_own(tmp_path / "meta", model, shards=2)
    expected = forecast(tmp_path / "meta")
    assert (expected.parameters, expected.dtype) == (model.num_parameters(), "bfloat16")
    exported = export(convert(tmp_path / "meta", tmp_path / "native"), tmp_path / "exported")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(exported)
    assert loaded.dtype == model.dtype
    states = loaded.state_dict(), model.state_dict()
    assert all(bool((states[0][name] == states[1][name]).all()) for name in states[0].keys() | states[1].keys())


def test_refusals(native, checkpoint_of, tmp_path):
    (tmp_path / "thesis").mkdir()
    with pytest.raises(InputError, match="thesis: exists already"):
        export(native, tmp_path / "thesis")
    with pytest.raises(InputError, match="not a jaxllm checkpoint"):
        export(checkpoint_of("llama"), tmp_path / "x")
    for size in ("5XB", "", "0", -1, "1.5GB", "GB"):
        with pytest.raises(InputError, match="must be a number of bytes"):
            export(native, tmp_path / "x", max_shard_size=size)
    manifest = read(native, "manifest.json")
    for change, message in (
        ({"hf_config": None}, "no hf_config"),
        ({"hf_config": {"model_type": "abacus"}}, "'abacus' is not supported"),
        ({"checksums": dict.fromkeys(manifest["checksums"], "crc32:0")}, r"embedding.weight is damaged|is damaged"),
        ({"checksums": {}}, "not there, or not as config.json asks for it"),
    ):
        (native / "manifest.json").write_text(json.dumps(manifest | change))
        with pytest.raises(InputError, match=message) as caught:
            export(native, tmp_path / "x")
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*x*"))


@pytest.mark.parametrize("moment", [KeyboardInterrupt, MemoryError, OSError])
def test_interrupted_export_leaves_nothing(native, tmp_path, monkeypatch, moment):
    def interrupted(*_):
        raise moment("no space left on device")

    monkeypatch.setattr(checkpoint, "read_stored", interrupted)
    (tmp_path / "out").mkdir()
    with pytest.raises((moment, InputError)):
        export(native, tmp_path / "out" / "exported")
    assert not list((tmp_path / "out").iterdir())


def test_room_is_asked_for_first(native, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(InputError, match=r"exported: cannot be written: 0 MB are needed, but only 0 MB are free"):
        export(native, tmp_path / "exported")
    assert list(tmp_path.iterdir()) == [native]


def test_killed_export_leaves_no_target(native, tmp_path):
    program = f"""if True:
        import os, signal
        import conversion, jaxllm.checkpoint
        count, read = [], jaxllm.checkpoint.read_stored
        def dying(*words):
            count.append(1)
            return read(*words) if len(count) < 5 else os.kill(os.getpid(), signal.SIGKILL)
        jaxllm.checkpoint.read_stored = dying
        conversion.export({str(native)!r}, {str(tmp_path / "out" / "exported")!r})
    """
    result = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert result.returncode == -signal.SIGKILL
    assert not (tmp_path / "out" / "exported").exists()
    export(native, tmp_path / "out" / "exported")


@pytest.mark.torch
@pytest.mark.parametrize("case", ["llama-biases-tied", "gpt2-untied", "mistral"])
def test_transformers_loads_it(case, checkpoint_of, tmp_path):
    """With the weights it loads from the source, and no complaint of missing or unknown ones."""
    transformers = pytest.importorskip("transformers")
    exported = export(convert(checkpoint_of(case), tmp_path / "native"), tmp_path / "exported", max_shard_size="40KB")
    states = []
    for path in (exported, checkpoint_of(case)):
        model, info = transformers.AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
        assert not any(info.values())
        states.append(model.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(bool((states[0][name] == states[1][name]).all()) for name in states[0])


@pytest.mark.torch
def test_class_names_are_transformers_own():
    transformers = pytest.importorskip("transformers")
    known = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    assert {name: architecture(name).class_name for name in names()} == {name: known[name] for name in names()}
