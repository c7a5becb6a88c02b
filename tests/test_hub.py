"""What `open_source` is given: paths, and names of repositories with a local cache in the place of the hub."""

import json

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import save_file

import jaxllm
from conversion import convert, forecast
from conversion.hub import download_weights
from conversion.source import open_source
from jaxllm import checkpoint
from jaxllm.errors import InputError

COMMIT = "abc0" * 10


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """The cached repository owner/name, whose files are links to blobs outside its directory."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    root = tmp_path / "models--owner--name"
    snapshot, blobs = root / "snapshots" / COMMIT, root / "blobs"
    for directory in (snapshot, blobs, root / "refs"):
        directory.mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    for i in (1, 2):
        save_file({f"t{i}": np.arange(3)}, blobs / f"{i}.safetensors")
    weight_map = {"t1": "1.safetensors", "t2": "2.safetensors"}
    (blobs / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    for name in ("config.json", "tokenizer.json", "generation_config.json"):
        (blobs / name).write_text("{}")
    for blob in blobs.iterdir():
        (snapshot / blob.name).symlink_to(f"../../blobs/{blob.name}")
    return snapshot


def test_cached_repository(repository):
    source = open_source("owner/name")
    assert source.path == repository
    assert {name: tensor.read().tolist() for name, tensor in source.tensors.items()} == {
        "t1": [0, 1, 2],
        "t2": [0, 1, 2],
    }
    assert [file.name for file in source.auxiliary] == ["tokenizer.json", "generation_config.json"]
    with pytest.raises(InputError, match=r"owner/name: no such directory, .* not in the local cache"):
        open_source("owner/name", "v2")


def test_weights_are_of_the_commit_of_the_config(repository):
    source = open_source("owner/name")
    (repository.parents[1] / "refs" / "main").write_text("def")  # the branch moves on in between
    assert source.tensors.keys() == {"t1", "t2"}


def test_pickles_only_where_nothing_better_is(tmp_path, monkeypatch):
    asked = []

    def snapshot_download(repo, revision, allow_patterns):
        asked.append(allow_patterns[-1])
        if asked[-1] == "pytorch_model-*.bin":
            (tmp_path / "pytorch_model-00001-of-00001.bin").touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert download_weights("owner/name", None) == tmp_path
    assert asked == ["model-*.safetensors", "pytorch_model-*.bin"]


@pytest.fixture
def hub(tmp_path, monkeypatch, checkpoint_of):
    """The repository owner/name on a hub that keeps a list of the files it has given."""
    given, local = [], tmp_path / "snapshot"
    local.mkdir()

    def snapshot_download(repo, revision, allow_patterns):
        for file in checkpoint_of("llama").iterdir():
            if any(file.match(pattern) for pattern in allow_patterns) and not (local / file.name).exists():
                given.append(file.name)
                (local / file.name).write_bytes(file.read_bytes())
        return str(local)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return local, given


def test_config_comes_first(hub, checkpoint_of, tmp_path):
    """A dry run needs nothing else, and what is not supported costs no download of weights."""
    local, given = hub
    for dtype, width in (("bfloat16", 2), (None, 4)):
        found = forecast("owner/name", tmp_path / "native", dtype)
        assert found.bytes == width * found.parameters
    assert given == ["config.json"]
    whole = (local / "config.json").read_text()
    (local / "config.json").write_text('{"model_type": "llama", "spin": 0.5}')
    for use in (lambda: convert("owner/name", tmp_path / "native"), lambda: jaxllm.load("owner/name")):
        with pytest.raises(InputError, match=r"spin=0.5 is not supported"):
            use()
    assert given == ["config.json"]
    (local / "config.json").write_text(whole)
    assert checkpoint.damaged(convert("owner/name", tmp_path / "native")) == []
    assert given == ["config.json", "model.safetensors"]


def test_loaded_from_the_hub_once(hub, monkeypatch):
    _, given = hub
    model, _ = jaxllm.load("owner/name")
    monkeypatch.delattr("jaxllm.pretrained.open_source")
    again, _ = jaxllm.load("owner/name")
    assert model.config == again.config
    assert given == ["config.json", "model.safetensors"]


def test_errors_are_one_line(monkeypatch):
    def snapshot_download(repo, revision, allow_patterns):
        raise ConnectionError("no route\nto the host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(InputError) as caught:
        open_source("owner/name")
    assert str(caught.value) == "owner/name: no such directory, and not had from the hub: no route"


@pytest.mark.parametrize("name", ["no/such/path", "./model", "/no", "~/none", "a/../b", "", "two\nlines"])
def test_missing_path(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"this path does not exist|not a checkpoint") as caught:
        open_source(name)
    assert "\n" not in str(caught.value)


def test_not_a_directory(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"model.safetensors: not a directory"):
        open_source(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="a directory has no revision 'v1'"):
        open_source(tmp_path, revision="v1")
