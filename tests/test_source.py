"""Every layout of the same model gives the same names, arrays and config."""

import json
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from conversion.source import open_source
from jaxllm.errors import InputError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
save_file = pytest.importorskip("safetensors.torch").save_file

pytestmark = pytest.mark.torch
HEADS, KV_HEADS = 8, 4
SHAPE: dict[str, Any] = {
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "vocab_size": 64,
}
OWN_NAMES = (
    *(("model.embed_tokens", "tok_embeddings"), ("lm_head", "output"), ("model.", ""), ("self_attn", "attention")),
    *(("q_proj", "wq"), ("k_proj", "wk"), ("v_proj", "wv"), ("o_proj", "wo"), ("mlp", "feed_forward")),
    *(("gate_proj", "w1"), ("down_proj", "w2"), ("up_proj", "w3")),
    *(("input_layernorm", "attention_norm"), ("post_attention_layernorm", "ffn_norm")),
)


def tiny(family: str, dtype=torch.bfloat16):
    """A model with random norms too; Meta's formula makes the hidden size 88, Mistral's heads are not D / N."""
    torch.manual_seed(0)
    if family == "llama":
        config = transformers.LlamaConfig(hidden_size=32, intermediate_size=88, max_position_embeddings=2048, **SHAPE)
        model = transformers.LlamaForCausalLM(config)
    else:
        sizes: dict[str, Any] = {
            "hidden_size": 32,
            "intermediate_size": 56,
            "head_dim": 6,
            "max_position_embeddings": 32768,
        }
        config = transformers.MistralConfig(sliding_window=16, rms_norm_eps=1e-5, **sizes, **SHAPE)
        model = transformers.MistralForCausalLM(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model.to(dtype)


def permute(w, heads):
    """As in Transformers' convert_llama_weights_to_hf.py: the authors' rows to Hugging Face's."""
    rows, columns = w.shape
    return w.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def unpermute(w, heads):
    rows, columns = w.shape
    own = w.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)
    assert torch.equal(permute(own, heads), w)
    return own


def own_state(model) -> dict:
    state = {}
    for name, value in model.state_dict().items():
        heads = {"q_proj": HEADS, "k_proj": KV_HEADS}.get(name.split(".")[-2])
        for theirs, own in OWN_NAMES:
            name = name.replace(theirs, own)
        state[name] = unpermute(value, heads) if heads else value
    return state


def write_own(path: Path, model, shards: int, vocabulary_cut: bool = True) -> None:
    """Mistral's or Meta's layout in model-parallel shards; `vocabulary_cut` as Llama 3 cuts the embedding."""
    config = model.config
    params = {"dim": 32, "n_layers": 2, "n_heads": HEADS, "n_kv_heads": KV_HEADS, "norm_eps": config.rms_norm_eps}
    if config.model_type == "llama":
        params |= {"multiple_of": 8, "vocab_size": -1}
    else:
        params |= {
            "head_dim": 6,
            "hidden_dim": 56,
            "vocab_size": 64,
            "sliding_window": 16,
            "use_biases": False,
            "moe": None,
        }
    (path / "params.json").write_text(json.dumps(params))
    for i in range(shards):
        state = {"rope.freqs": torch.ones(2)}
        for name, value in own_state(model).items():
            columns = name.split(".")[-2] in ("wo", "w2") or (name.startswith("tok_") and not vocabulary_cut)
            state[name] = value if value.ndim == 1 else value.chunk(shards, int(columns))[i].clone()
        torch.save(state, path / f"consolidated.{i:02}.pth")


def write_indexed(path: Path, stem: str, save, state: dict) -> None:
    names, (base, suffix) = sorted(state), stem.split(".")
    files = {name: f"{base}-0000{1 + i % 2}-of-00002.{suffix}" for i, name in enumerate(names)}
    for file in set(files.values()):
        save({name: state[name] for name in names if files[name] == file}, path / file)
    (path / f"{stem}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def write_hf(path: Path, model, layout: str) -> None:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.config.save_pretrained(path)
    match layout:
        case "safetensors":
            save_file(state, path / "model.safetensors", metadata={"format": "pt"})
        case "safetensors index":
            write_indexed(path, "model.safetensors", save_file, state)
        case "pytorch":
            torch.save(state, path / "pytorch_model.bin")
        case "pytorch old":
            torch.save(state, path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
        case "pytorch index":
            write_indexed(path, "pytorch_model.bin", torch.save, state)


def check_same(source, model) -> None:
    """Bit by bit, dtypes and shapes included, by what `Tensor` says and by what it reads."""
    expected = model.state_dict()
    assert source.tensors.keys() == expected.keys()
    for name, value in expected.items():
        tensor, array = source.tensors[name], source.tensors[name].read()
        assert array.shape == tensor.shape == tuple(value.shape)
        assert array.dtype == tensor.dtype
        assert str(value.dtype) == f"torch.{array.dtype.name}"
        assert array.tobytes() == value.contiguous().view(torch.uint8).numpy().tobytes(), name


@pytest.mark.parametrize("family", ["llama", "mistral"])
@pytest.mark.parametrize(
    "layout", ["safetensors", "safetensors index", "pytorch", "pytorch old", "pytorch index", "own 1", "own 2", "own 4"]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_layouts_agree(tmp_path, family, layout, dtype):
    model = tiny(family, dtype)
    kind, _, count = layout.partition(" ")
    write_own(tmp_path, model, int(count)) if kind == "own" else write_hf(tmp_path, model, layout)
    source = open_source(tmp_path)
    assert source.layout == ({"llama": "meta"}.get(family, family) if kind == "own" else kind)
    check_same(source, model)
    ours, theirs = type(model.config)(**source.config).to_dict(), model.config.to_dict()
    assert {k: v for k, v in ours.items() if theirs[k] != v and k not in ("architectures", "dtype")} == {}


def test_embedding_cut_by_columns(tmp_path):
    model = tiny("llama")
    write_own(tmp_path, model, 2, vocabulary_cut=False)
    check_same(open_source(tmp_path), model)


def test_rotary_rows_mean_the_same():
    """The authors' rotation of their rows and Hugging Face's of its own give the same attention scores."""
    model = tiny("llama", torch.float32)
    q, k = (f"model.layers.0.self_attn.{name}_proj.weight" for name in "qk")
    x, position = torch.randn(1, 5, 32), torch.arange(5)[None]
    cos, sin = model.model.rotary_emb(x, position)

    def split(w, heads):
        return (x @ w.T).view(1, 5, heads, 4)

    state = model.state_dict()
    theirs = transformers.models.llama.modeling_llama.apply_rotary_pos_emb(
        split(state[q], HEADS).transpose(1, 2), split(state[k], KV_HEADS).transpose(1, 2), cos, sin
    )
    turn = torch.polar(torch.ones(5, 2), torch.outer(position[0].float(), model.model.rotary_emb.inv_freq))
    own = []
    for name, heads in ((q, HEADS), (k, KV_HEADS)):
        pairs = torch.view_as_complex(split(unpermute(state[name], heads), heads).reshape(1, 5, heads, 2, 2))
        own.append(torch.view_as_real(pairs * turn[None, :, None]).flatten(3).transpose(1, 2))
    scores = [a @ b.repeat_interleave(2, 1).transpose(2, 3) for a, b in (theirs, own)]
    torch.testing.assert_close(*scores)


def test_tied_output(tmp_path):
    """Llama 3.2: the matrix is there twice under one storage, and the rotary factor is 32."""
    state = own_state(tiny("llama"))
    state["output.weight"] = state["tok_embeddings.weight"]
    torch.save(state, tmp_path / "consolidated.00.pth")
    params = {
        "dim": 32,
        "n_layers": 2,
        "n_heads": 8,
        "n_kv_heads": 4,
        "norm_eps": 1e-5,
        "multiple_of": 8,
        "use_scaled_rope": True,
    }
    (tmp_path / "params.json").write_text(json.dumps(params | {"vocab_size": 64, "rope_theta": 5e5}))
    source = open_source(tmp_path)
    assert "lm_head.weight" not in source.tensors
    assert source.config["tie_word_embeddings"] is True
    assert source.config["rope_scaling"]["factor"] == 32
    assert source.config["max_position_embeddings"] == 131072


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_every_bit_pattern_survives(tmp_path, file):
    """All bfloat16 and float8 values, signalling NaNs too: a detour through float32 would quiet those."""
    state = {
        "bf16": torch.arange(65536).to(torch.uint16).view(torch.bfloat16),
        "f8": torch.arange(256).to(torch.uint8).view(torch.float8_e4m3fn),
        "scalar": torch.tensor(1.5, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 3),
    }
    (save_file if file.startswith("model") else torch.save)(state, tmp_path / file)
    (tmp_path / "config.json").write_text("{}")
    arrays = {name: tensor.read() for name, tensor in open_source(tmp_path).tensors.items()}
    assert (arrays["bf16"].view(np.uint16) == np.arange(65536)).all()
    assert arrays["bf16"].dtype == ml_dtypes.bfloat16
    assert (arrays["f8"].view(np.uint8) == np.arange(256)).all()
    assert arrays["f8"].dtype == ml_dtypes.float8_e4m3fn
    assert arrays["scalar"].shape == ()
    assert arrays["scalar"] == 1.5
    assert arrays["empty"].shape == (0, 3)
    assert not arrays["bf16"].flags.owndata


def test_views_and_nesting_in_pickles(tmp_path):
    w = torch.arange(12.0).view(3, 4)
    state = {"a": w, "transposed": w.T, "row": w[1], "parameter": torch.nn.Parameter(w[:, 1:3])}
    torch.save({"model": state, "optimizer": {"lr": 0.1}, "step": 3}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text("{}")
    arrays = {name: tensor.read() for name, tensor in open_source(tmp_path).tensors.items()}
    assert arrays.keys() == state.keys()
    assert all(array.flags.c_contiguous for array in arrays.values())
    assert all((arrays[name] == value.detach().numpy()).all() for name, value in state.items())
    assert np.shares_memory(arrays["a"], arrays["row"])


def test_no_torch(tmp_path, monkeypatch):
    write_hf(tmp_path, tiny("llama"), "pytorch")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r'pytorch_model.bin: .*pip install "jaxllm\[torch\]"'):
        _ = open_source(tmp_path).tensors
