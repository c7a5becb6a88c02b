"""A dry run says what a conversion then does, reads no weights and leaves nothing behind."""

import json
import shutil
import sys

import ml_dtypes
import pytest

from conversion import convert, forecast
from jaxllm import InputError, checkpoint
from tests import tiny


@pytest.fixture
def source(checkpoint_of, tmp_path):
    """A checkpoint that says its dtype, the weights of which are no weights."""
    path = shutil.copytree(checkpoint_of("llama"), tmp_path / "source")
    tiny.rewrite(path, lambda config: config | {"dtype": "float32"})
    (path / "model.safetensors").write_bytes(b"not to be read")
    return path


def written(native):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in checkpoint.stored(native).values())


@pytest.mark.parametrize("case", ["llama", "llama-biases-tied", "gpt2", "mistral-full"])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_what_is_said_is_what_is_done(case, dtype, checkpoint_of, tmp_path):
    found = forecast(checkpoint_of(case), tmp_path / "native", dtype)
    native = convert(checkpoint_of(case), tmp_path / "native", dtype)
    assert found.bytes == written(native)
    assert found.dtype == checkpoint.read_manifest(native)["dtype"]
    assert found.parameters == sum(leaf.size for leaf in checkpoint.stored(native).values())
    config = checkpoint.read_config(native)
    assert (found.layers, found.vocab_size, found.context) == (
        config.layers.num_layers,
        config.vocab_size,
        config.max_position_embeddings,
    )


def test_config_is_enough(source, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    found = forecast(source, tmp_path / "a" / "b" / "native")
    assert (found.dtype, found.bytes) == ("float32", 4 * found.parameters)
    assert found.seconds >= 0
    assert found.free_bytes > 0
    (source / "model.safetensors").unlink()
    assert forecast(source).bytes == found.bytes
    (source / "model.safetensors").touch()
    assert sorted(tmp_path.rglob("*")) == before


def test_config_is_refused_before_the_weights_are_opened(source, tmp_path):
    tiny.rewrite(source, lambda config: config | {"spin": 0.5})
    for use in (forecast, convert):
        with pytest.raises(InputError, match=r"spin=0.5 is not supported"):
            use(source, tmp_path / "native")


def test_index_knows_better_than_an_outdated_dtype(source):
    exact = forecast(source).parameters * 2
    index = {"metadata": {"total_size": exact}, "weight_map": {}}
    (source / "model.safetensors").rename(source / "model-00001-of-00001.safetensors")
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    assert (forecast(source).bytes, forecast(source).dtype) == (exact, "16-bit floats")
    assert forecast(source, dtype="float64").bytes == 4 * exact
    for odd in ({}, {"metadata": None}, {"metadata": {"total_size": "much"}}, {"metadata": {"total_size": exact // 4}}):
        (source / "model.safetensors.index.json").write_text(json.dumps(odd))
        assert forecast(source).bytes == 2 * exact


def test_mixed_dtypes_without_one_said(checkpoint_of, tmp_path):
    source = shutil.copytree(checkpoint_of("llama", "bfloat16"), tmp_path / "source")
    wide = ("model.norm.weight", "lm_head.weight")
    tiny.rewrite(source, change_tensors=lambda t: t | {name: t[name].astype("float32") for name in wide})
    found = forecast(source, tmp_path / "native")
    assert found.bytes == written(convert(source, tmp_path / "native"))
    assert found.dtype == ml_dtypes.bfloat16.__name__


def test_index_beside_a_whole_file_says_nothing(source):
    index = {"metadata": {"total_size": forecast(source).parameters * 2}, "weight_map": {}}
    (source / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert forecast(source).dtype == "float32"


def test_trial_takes_no_more_than_there_would_be(source, monkeypatch):
    written = []
    monkeypatch.setattr(
        sys.modules["conversion.forecast"], "_timed_write", lambda _, array: written.append(array.nbytes) or 1.0
    )
    found = forecast(source)
    assert max(written) == found.bytes
    monkeypatch.setattr(
        sys.modules["conversion.forecast"], "disk_usage", lambda path: type("Usage", (), {"free": 1000})
    )
    assert forecast(source).free_bytes == 1000
    assert written[-1] == 500


def test_target_and_room(source, tmp_path, monkeypatch, capsys):
    (tmp_path / "native").mkdir()
    with pytest.raises(InputError, match="native: exists already"):
        forecast(source, tmp_path / "native")
    with pytest.raises(InputError, match=r"config.json: cannot be written"):
        forecast(source, source / "config.json" / "native")
    found = forecast(source, tmp_path / "x")
    found.print()
    assert "NOT ENOUGH" not in capsys.readouterr().out
    less = type("Usage", (), {"free": found.bytes - 1})
    monkeypatch.setattr(sys.modules["conversion.forecast"], "disk_usage", lambda path: less)
    forecast(source, tmp_path / "x").print()
    assert "NOT ENOUGH" in capsys.readouterr().out
    monkeypatch.setattr("tempfile.mkdtemp", lambda **_: (_ for _ in ()).throw(PermissionError("no entry")))
    with pytest.raises(InputError, match="cannot be written: no entry"):
        forecast(source, tmp_path / "x")
