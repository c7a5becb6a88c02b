"""What is converted is exactly what was there, and what is not wholly understood is refused by name."""

import json
import shutil
import signal
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint
import pytest
from safetensors.numpy import load_file

import jaxllm
from conversion import convert
from jaxllm import InputError, checkpoint
from jaxllm.models.abstract import abstract
from jaxllm.nn.parameter import named_parameters
from tests import tiny


def parameters(model):
    return {name: np.asarray(parameter[...]) for name, parameter in named_parameters(model)}


@pytest.mark.parametrize("case", ["llama-biases-tied", "gpt2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_bit_arrives(case, dtype, checkpoint_of, tmp_path):
    source = checkpoint_of(case, dtype)
    native = convert(source, tmp_path / "native")
    manifest = checkpoint.read_manifest(native)
    assert manifest["dtype"] == dtype
    theirs, ours = load_file(source / "model.safetensors"), parameters(checkpoint.restore(native))
    assert set(manifest["checksums"]) == set(ours)
    assert all(array.dtype == dtype for array in ours.values())
    embedding = "model.embed_tokens.weight" if case.startswith("llama") else "transformer.wte.weight"
    assert ours["embedding.weight"].tobytes() == theirs[embedding].tobytes()
    if case == "gpt2":
        fused = theirs["transformer.h.1.attn.c_attn.weight"]  # [D 3D], as Conv1D has it
        parts = [
            ours[f"layers.1.attention.{name}.weight"].reshape(-1, fused.shape[0]) for name in ("query", "key", "value")
        ]
        assert np.concatenate(parts).tobytes() == np.ascontiguousarray(fused.T).tobytes()
    assert sum(array.nbytes for array in ours.values()) == sum(array.nbytes for array in theirs.values())


def test_dtype_is_kept_or_changed_as_told(checkpoint_of, tmp_path):
    source = checkpoint_of("llama", "bfloat16")
    wide = convert(source, tmp_path / "wide", dtype="float32")
    assert checkpoint.restore(wide).dtype == np.float32
    assert checkpoint.restore(wide, dtype="bfloat16").dtype == ml_dtypes.bfloat16
    with pytest.raises(InputError, match="dtype 'float33': must be float32, bfloat16"):
        convert(source, tmp_path / "x", dtype="float33")
    with pytest.raises(InputError, match="dtype 'int8': must be"):
        convert(source, tmp_path / "x", dtype="int8")
    with pytest.raises(InputError, match="64-bit mode"):
        checkpoint.restore(wide, dtype="float64")


def test_published_gpt2_names(checkpoint_of, tmp_path):
    """The hub's own files carry no prefix, the causal masks, and sometimes the tied head."""
    source = shutil.copytree(checkpoint_of("gpt2"), tmp_path / "gpt2")
    expected = parameters(checkpoint.restore(convert(source, tmp_path / "a")))

    def publish(tensors):
        plain = {name.removeprefix("transformer."): array for name, array in tensors.items()}
        masks = {f"h.{i}.attn.bias": np.tri(128, dtype=np.float32)[None, None] for i in range(3)}
        return plain | masks | {"lm_head.weight": plain["wte.weight"].copy()}

    tiny.rewrite(source, change_tensors=publish)
    found = parameters(checkpoint.restore(convert(source, tmp_path / "b")))
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("case", "name"), [("falcon", "RefinedWebModel"), ("falcon-rw", "RefinedWebModel"), ("falcon-40b", "RefinedWeb")]
)
def test_first_names_of_falcon(case, name):
    """The first files have other keys too, and none for the 40B's form."""
    from conversion.architectures import architecture
    from conversion.config_reader import ConfigReader

    new = {key: value for key, value in tiny.CASES[case].items() if key not in ("model_type", "eos_token_id")}
    names = {"num_attention_heads": "n_head", "num_hidden_layers": "n_layer", "num_kv_heads": "n_head_kv"}
    old = {names.get(key, key): value for key, value in new.items() if key != "new_decoder_architecture"}
    assert architecture(name).from_hf(ConfigReader(old)) == architecture("falcon").from_hf(ConfigReader(new))


@pytest.mark.parametrize(
    ("layers", "dim", "heads", "count"),
    [(12, 768, 12, 124439808), (24, 1024, 16, 354823168), (36, 1280, 20, 774030080), (48, 1600, 25, 1557611200)],
    ids=["small", "medium", "large", "xl"],
)
def test_published_gpt2_sizes(layers, dim, heads, count):
    from conversion.architectures import architecture
    from conversion.config_reader import ConfigReader

    reader = ConfigReader({"n_layer": layers, "n_embd": dim, "n_head": heads})
    model = abstract(architecture("gpt2").from_hf(reader))
    assert sum(int(np.prod(parameter.shape)) for _, parameter in named_parameters(model)) == count


def test_existing_target_is_left_alone(checkpoint_of, tmp_path):
    (tmp_path / "native").mkdir()
    (tmp_path / "native" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="exists already"):
        convert(checkpoint_of("llama"), tmp_path / "native")
    assert (tmp_path / "native" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("moment", [KeyboardInterrupt, MemoryError, OSError])
def test_interrupted_conversion_leaves_nothing(checkpoint_of, tmp_path, monkeypatch, moment):
    def interrupted(*_):
        raise moment("now")

    monkeypatch.setattr("conversion.claim._read", interrupted)
    with pytest.raises((moment, InputError)):
        convert(checkpoint_of("llama"), tmp_path / "native")
    assert not list(tmp_path.iterdir())


def test_damaged_native_checkpoints_are_named(checkpoint_of, tmp_path):
    native = convert(checkpoint_of("llama"), tmp_path / "native")
    damage = {
        "manifest.json": ['{"format": 99}', "not json", "[]", '{"format": 2, "dtype": "float32", "checksums": 1}'],
        "config.json": [
            '{"type": "PerceptronConfig"}',
            '{"type": "DecoderConfig"}',
            "",
            '{"type": "DecoderConfig", "vocab_size": "many"}',
            '{"type": "RMSNormConfig", "eps": 1e-6}',
            (native / "config.json").read_text().replace('"vocab_size": 101', '"vocab_size": 0'),
            (native / "config.json").read_text().replace('"kv_heads": 2', '"kv_heads": 0'),
            (native / "config.json").read_text().replace('"silu"', '"sigh"'),
            (native / "config.json").read_text().replace('"num_layers": 2', '"num_layers": 1'),
            (native / "config.json").read_text().replace('"num_layers": 2', '"num_layers": 1000000000'),
            (native / "config.json").read_text().replace('"theta": 10000.0', f'"theta": {10**400}'),
            '{"type": ["DecoderConfig"]}',
            "[" * 10**5,
        ],
    }
    for name, contents in damage.items():
        whole = (native / name).read_text()
        for content in contents:
            (native / name).write_text(content)
            with pytest.raises(InputError, match=r"native|config"):
                checkpoint.restore(native)
        (native / name).write_text(whole)
    shutil.rmtree(native / "arrays")
    with pytest.raises(InputError, match="not a jaxllm checkpoint"):
        checkpoint.restore(native)


def test_truncated_data_cost_one_line(checkpoint_of, tmp_path):
    """In a process of its own: Orbax leaves the coroutines of a failed read behind."""
    native = convert(checkpoint_of("llama"), tmp_path / "native")
    largest = max((native / "arrays").rglob("*"), key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    command = [sys.executable, "-m", "jaxllm", "generate", str(native), "hello"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith(f"jaxllm: {native}: cannot be restored: ")
    assert result.stderr.count("\n") == 1


def test_killed_conversion_leaves_the_old_state(checkpoint_of, tmp_path):
    """SIGKILL in the middle of the arrays: no target; and the next conversion is not disturbed by what is left."""
    program = "import os, signal, conversion, conversion.claim as claim; read = claim._read; seen = []\n"
    program += "def dying(*arguments):\n    seen.append(0)\n"
    program += "    if len(seen) > 9: os.kill(os.getpid(), signal.SIGKILL)\n    return read(*arguments)\n"
    program += f"claim._read = dying; conversion.convert({str(checkpoint_of('llama'))!r}, {str(tmp_path / 'native')!r})"
    result = subprocess.run([sys.executable, "-c", program], check=False)
    assert result.returncode == -signal.SIGKILL
    assert not (tmp_path / "native").exists()
    assert checkpoint.damaged(convert(checkpoint_of("llama"), tmp_path / "native")) == []


def test_checksums_find_and_name_what_changed(checkpoint_of, tmp_path):
    native = convert(checkpoint_of("llama"), tmp_path / "native")
    assert checkpoint.damaged(native) == []
    manifest = json.loads((native / "manifest.json").read_text())
    manifest["checksums"]["norm.weight"] = "crc32:00000000"  # as if the data were other than they were
    (native / "manifest.json").write_text(json.dumps(manifest))
    assert checkpoint.damaged(native) == ["norm.weight"]
    del manifest["checksums"]["norm.weight"]
    (native / "manifest.json").write_text(json.dumps(manifest))
    assert checkpoint.damaged(native) == ["norm.weight"]


def test_plain_orbax_reads_it(checkpoint_of, tmp_path):
    native = convert(checkpoint_of("llama"), tmp_path / "native")
    with orbax.checkpoint.PyTreeCheckpointer() as reader:
        tree = reader.restore(native / "arrays" / "state")
    model = checkpoint.restore(native)
    assert np.array_equal(
        tree["layers"]["1"]["attention"]["query"]["weight"], model.layers[1].attention.query.weight[...]
    )


def test_load_converts_once_and_notices_changes(checkpoint_of, cache, tmp_path, monkeypatch):
    source = shutil.copytree(checkpoint_of("llama"), tmp_path / "some-model")

    def kept():
        return list((cache / "checkpoints").glob("some-model-*"))

    model, tokenizer = jaxllm.load(source)
    assert tokenizer is None
    with monkeypatch.context() as patch:
        patch.delattr("jaxllm.pretrained.open_source")  # not so much as opened again
        jaxllm.load(source)
    assert len(kept()) == 1
    tiny.rewrite(source, change_tensors=lambda t: t | {"lm_head.weight": 2 * t["lm_head.weight"]})
    changed, _ = jaxllm.load(source)
    assert len(kept()) == 2
    assert np.array_equal(parameters(changed)["head.weight"], 2 * parameters(model)["head.weight"])


def test_gradients_flow(checkpoint_of, tmp_path):
    model = checkpoint.restore(convert(checkpoint_of("llama"), tmp_path / "native"))
    tokens = np.arange(12, dtype=np.int32).reshape(1, 12)
    gradient = jax.jit(jax.grad(lambda model: model(tokens).var()))(model)
    assert all(np.abs(array).max() > 0 for array in parameters(gradient).values())
