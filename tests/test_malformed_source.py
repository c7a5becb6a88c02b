"""Whatever is wrong with a checkpoint is told in one line that names the culprit, and nothing else happens."""

import json
import os
import re
from pathlib import Path

import pytest

from conversion.source import open_source
from jaxllm.cli import main
from jaxllm.errors import InputError

torch = pytest.importorskip("torch")

A = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
B = {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]}
INDEX = "model.safetensors.index.json"
CONFIG = b'{"model_type": "llama"}'
META = {"dim": 8, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "norm_eps": 1e-5, "multiple_of": 8, "vocab_size": -1}
MISTRAL = {"dim": 8, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "norm_eps": 1e-5, "hidden_dim": 24, "vocab_size": 16}


def safetensors(header, data: bytes = bytes(32)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def single(header, data: bytes = bytes(32)):
    """A directory whose one file has this header, an object or text, and these data."""
    return lambda path: write(path, {"config.json": CONFIG, "model.safetensors": safetensors(header, data)})


def changed(**fields):
    return single({"a": A | fields, "b": B})


def files(**contents):
    """A directory with these files, a dot in a name written as two underscores."""
    return lambda path: write(path, {name.replace("__", "."): content for name, content in contents.items()})


def indexed(weight_map, one=("a",), two=("b",)):
    def make(path):
        shards = {"1.safetensors": one, "2.safetensors": two}
        byte = [{"dtype": "U8", "shape": [], "data_offsets": [i, i + 1]} for i in range(2)]
        contents = {
            file: safetensors(dict(zip(held, byte, strict=False)), bytes(len(held))) for file, held in shards.items()
        }
        text = weight_map if isinstance(weight_map, bytes) else json.dumps({"weight_map": weight_map}).encode()
        write(path, contents | {"config.json": CONFIG, INDEX: text})

    return make


def pickled(state, **options):
    def make(path):
        write(path, {"config.json": CONFIG})
        torch.save(state, path / "pytorch_model.bin", **options)

    return make


def own(params, change=lambda shards: None, count=2, drop=()):
    """Meta's layout in shards, after `change` has had its way with them."""

    def make(path):
        norm, square, kv, up = torch.ones(8), torch.ones(8 // count, 8), torch.ones(4 // count, 8), (24 // count, 8)
        layer = {"attention.wq": square, "attention.wk": kv, "attention.wv": kv, "attention.wo": square.T}
        layer |= {"attention_norm": norm, "ffn_norm": norm, "feed_forward.w1": torch.ones(up)}
        layer |= {"feed_forward.w2": torch.ones(up).T, "feed_forward.w3": torch.ones(up)}
        state = {f"layers.0.{name}.weight": value for name, value in layer.items()}
        state |= {"tok_embeddings.weight": torch.zeros(16 // count, 8), "output.weight": torch.ones(16 // count, 8)}
        state |= {"norm.weight": norm, "rope.freqs": torch.ones(2)}
        shards = [dict(state) for _ in range(count)]
        change(shards)
        write(path, {"params.json": json.dumps(params).encode()})
        for i, shard in enumerate(shards):
            if i not in drop:
                torch.save(shard, path / f"consolidated.{i:02}.pth")

    return make


def write(path: Path, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        (path / name).write_bytes(content)


class Hostile:
    def __reduce__(self):
        return os.system, ("touch executed",)


def truncated_pickle(path):
    pickled({"a": torch.ones(1000)})(path)
    file = path / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:-500])


CASES = {
    "empty directory": (lambda path: None, "not a checkpoint: no model.safetensors"),
    "pipe": (lambda path: os.mkfifo(path / "model.safetensors") or write(path, {"config.json": CONFIG}), "not a file"),
    "dangling link": (lambda path: (path / "params.json").symlink_to("nowhere"), "params.json: no such file"),
    "no config": (files(model__safetensors=safetensors({})), "config.json: no such file"),
    "config no JSON": (files(model__safetensors=b"", config__json=b"{,"), "config.json: not valid JSON"),
    "config no UTF-8": (files(model__safetensors=b"", config__json=b"\xff{}"), "config.json: not valid JSON"),
    "config no object": (files(model__safetensors=b"", config__json=b"[]"), "config.json: not a JSON object"),
    "config repeats": (
        files(model__safetensors=b"", config__json=b'{"a":1,"a":2}'),
        "config.json: .*'a' is there twice",
    ),
    "config too deep": (files(model__safetensors=b"", config__json=b"[" * 10**5), "config.json: not valid JSON"),
    # safetensors
    "no header": (files(model__safetensors=b"1234", config__json=CONFIG), "model.safetensors: not safetensors"),
    "header beyond file": (
        files(model__safetensors=b"\xff" * 16, config__json=CONFIG),
        "header of 1844674407370955161",
    ),
    "header no JSON": (single(b"{oops"), "model.safetensors: header: not valid JSON"),
    "header no object": (single(b"[]"), "its header is not a JSON object"),
    "header repeats": (single(b'{"a": {}, "a": {}}'), "'a' is there twice"),
    "metadata": (single({"__metadata__": {"x": 1}}, b""), "'__metadata__' is not an object of strings"),
    "truncated": (single({"a": A, "b": B}, bytes(31)), "truncated: tensor 'b' ends at byte 32 of 31"),
    "left over": (single({"a": A, "b": B}, bytes(33)), "1 bytes after the last tensor"),
    "field": (changed(more=1), "tensor 'a': an entry has exactly"),
    "dtype": (changed(dtype="F4"), "tensor 'a': unknown dtype 'F4'"),
    "dtype no string": (changed(dtype=["F32"]), "tensor 'a': unknown dtype"),
    "negative": (changed(shape=[-2, -3]), "tensor 'a': not a shape"),
    "NaN": (changed(shape=[float("nan"), 3]), "tensor 'a': not a shape"),
    "true": (changed(shape=[True, 6]), "tensor 'a': not a shape"),
    "rank": (changed(shape=[1] * 65), "tensor 'a': not a shape"),
    "size": (changed(shape=[2, 4]), "tensor 'a': F32 .2, 4. takes 32 bytes, its offsets span 24"),
    "overflow": (changed(shape=[2**62, 2**62]), "tensor 'a': an array cannot be of shape"),
    "overflow of nothing": (changed(shape=[0, 2**62, 4], data_offsets=[0, 0]), "tensor 'a': an array cannot be"),
    "digits": (single(b'{"a": {"shape": [' + b"9" * 5000 + b"]}}"), "header: not valid JSON"),
    "offsets": (changed(data_offsets=[24, 0]), "tensor 'a': not a pair of offsets"),
    "gap": (single({"b": B}), "tensor 'b' comes after a gap"),
    "overlap": (single({"a": A, "b": B | {"data_offsets": [20, 28]}}), "tensor 'b' overlaps"),
    # indices
    "parent": (indexed({"a": "../1.safetensors"}), "tensor 'a' lies in '../1.safetensors', not a file of the same"),
    "absolute": (indexed({"a": "/etc/passwd"}), "tensor 'a' lies in '/etc/passwd'"),
    "dots": (indexed({"a": ".."}), "tensor 'a' lies in '..'"),
    "number": (indexed({"a": 1}), "tensor 'a' lies in 1"),
    "no map": (indexed(CONFIG), "index.json: has no 'weight_map'"),
    "missing shard": (indexed({"a": "1.safetensors", "b": "3.safetensors"}), "3.safetensors: no such file"),
    "not in shard": (indexed({"a": "1.safetensors", "c": "1.safetensors"}), "1.safetensors: tensor 'c' is missing"),
    "not in index": (indexed({"a": "1.safetensors"}, one=("a", "c")), "1.safetensors: tensor 'c': .* does not list it"),
    "in two shards": (
        indexed({"a": "1.safetensors", "b": "2.safetensors"}, two=("a", "b")),
        "2.safetensors: tensor 'a': also in 1.safetensors",
    ),
    "index repeats": (
        indexed(b'{"weight_map": {"a": "1", "a": "2"}}'),
        "index.json: not valid JSON: 'a' is there twice",
    ),
    # pickles
    "hostile": (pickled({"a": Hostile()}), "pytorch_model.bin: refused: its pickle asks for posix.system"),
    "hostile old": (pickled({"a": Hostile()}, _use_new_zipfile_serialization=False), "refused: .*posix.system"),
    "no pickle": (files(pytorch_model__bin=b"hello" * 9, config__json=CONFIG), "pytorch_model.bin: not a PyTorch"),
    "empty pickle": (files(pytorch_model__bin=b"", config__json=CONFIG), "pytorch_model.bin: not a PyTorch"),
    "truncated pickle": (truncated_pickle, "pytorch_model.bin: not a PyTorch checkpoint, or truncated"),
    "list": (pickled([torch.ones(1)]), "pytorch_model.bin: holds a list"),
    "no tensor": (pickled({"a": torch.ones(1), "step": 3}), "entry 'step' is a int"),
    "no name": (pickled({3: torch.ones(1)}), "entry 3 is a Tensor, not a named tensor"),
    "sparse": (pickled({"a": torch.eye(3).to_sparse()}), "entry 'a': a torch.sparse_coo"),
    "complex": (pickled({"a": torch.ones(1, dtype=torch.complex128)}), "entry 'a': .*complex128"),
    "huge": (pickled({"a": torch.ones(1).expand(2**40)}), "entry 'a': its shape .* repeats a smaller storage"),
    # the authors' own layouts
    "nobody's": (own({"dim": 8}), "params.json: neither Mistral's"),
    "both": (own(META | MISTRAL), "params.json: neither Mistral's keys .*, or both"),
    "experts": (own(MISTRAL | {"moe": {"num_experts": 8}}), "params.json: 'moe' may change the mathematics"),
    "adapters": (own(META | {"lora_args": {"rank": 8}}), "'lora_args' may change"),
    "quantized": (own(META | {"quantization_args": {"group_size": 8}}), "'quantization_args' may change"),
    "biases": (own(MISTRAL | {"use_biases": True}), "use_biases=True is not supported"),
    "windows": (own(MISTRAL | {"sliding_window": [4, None]}), "sliding_window must be a whole number"),
    "no size": (own(META | {"dim": None}), "params.json: dim is missing"),
    "no layers": (own(META | {"n_layers": -1}), "n_layers must be a whole number .* not -1"),
    "many layers": (own(META | {"n_layers": 2**30}), "consolidated.00.pth: tensor 'layers.1.* is missing"),
    "no integer": (own(META | {"dim": 10**400}), "dim must be a whole number .* not 1000"),
    "base": (own(META | {"rope_theta": 10**400}), "rope_theta must be a positive number, not 1000"),
    "no tensors": (own(META, lambda s: [p.clear() for p in s]), "a consolidated file without any tensors"),
    "epsilon": (own(META | {"norm_eps": float("inf")}), "norm_eps must be a positive number, not inf"),
    "heads": (own(META | {"n_heads": 4, "n_kv_heads": 3}), "4 heads .* do not divide"),
    "wrong hidden size": (
        own(META | {"multiple_of": 16}),
        r"'layers.0.feed_forward.w1.weight' is \(12, 8\) in each of 2",
    ),
    "wrong vocabulary": (own(MISTRAL | {"vocab_size": 17}), "tensor 'tok_embeddings.weight' is"),
    "missing file": (own(META, drop=(0,)), "consolidated.00.pth: no such file"),
    "missing last file": (
        own(META, drop=(1,)),
        r"\(4, 8\) in 1 shard, params.json makes it \(8, 8\); is a shard missing",
    ),
    "norms": (
        own(META, lambda s: s[1].update({"norm.weight": torch.zeros(8)})),
        "01.pth: tensor 'norm.weight' differs",
    ),
    "rope": (own(META, lambda s: s[1].update({"rope.freqs": torch.zeros(2)})), "01.pth: tensor 'rope.freqs' differs"),
    "missing tensor": (
        own(META, lambda s: [p.pop("norm.weight") for p in s]),
        "00.pth: tensor 'norm.weight' is missing",
    ),
    "missing in one": (
        own(META, lambda s: s[1].pop("norm.weight")),
        "01.pth: tensor 'norm.weight' is missing, another",
    ),
    "one more": (own(META, lambda s: [p.update({"x": torch.ones(1)}) for p in s]), "tensor 'x' is not one of a meta"),
    "shapes": (
        own(META, lambda s: s[1].update({"output.weight": torch.ones(9, 8)})),
        "01.pth: tensor 'output.weight' has not",
    ),
    "dtypes": (own(META, lambda s: s[1].update({"norm.weight": torch.ones(8).half()})), "01.pth: tensor 'norm.weight'"),
    "untied": (own(MISTRAL | {"tied_embeddings": True}), "'tied_embeddings' is true, but 'output.weight' is not"),
}


@pytest.mark.parametrize("case", CASES)
def test_malformed(tmp_path, monkeypatch, capsys, case):
    """One line, exit code 2, nothing written and nothing executed."""
    make, message = CASES[case]
    (source := tmp_path / "source").mkdir()
    monkeypatch.chdir(source)
    make(source)
    before = sorted(tmp_path.rglob("*"))
    assert main(["convert", str(source), str(tmp_path / "native")]) == 2
    said = capsys.readouterr()
    assert re.match(rf"jaxllm: {re.escape(str(source))}.*{message}.*\n$", said.err), said.err
    assert not said.out
    assert sorted(tmp_path.rglob("*")) == before


def test_good_ones_are_good(tmp_path):
    """What the cases start from has nothing wrong with it."""
    makers = [own(META), own(META, count=1), own(MISTRAL), single({"a": A, "b": B})]
    makers += [indexed({"a": "1.safetensors", "b": "2.safetensors"}), pickled({"a": torch.ones(1)})]
    for i, make in enumerate(makers):
        (path := tmp_path / str(i)).mkdir()
        make(path)
        assert all(t.read().shape == t.shape for t in open_source(path).tensors.values())


def test_changed_after_opening(tmp_path):
    single({"a": A, "b": B})(tmp_path)
    tensor = open_source(tmp_path).tensors["b"]
    os.truncate(tmp_path / "model.safetensors", 50)
    with pytest.raises(InputError, match=r"model.safetensors: changed or removed"):
        tensor.read()
