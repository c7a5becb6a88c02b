"""GGUF files of every type of weights, in one file or several, and what becomes of the vocabulary in them."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFReader, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize

from conversion import convert, export
from conversion.gguf import present_gguf
from conversion.source import open_source
from jaxllm import checkpoint
from jaxllm.errors import InputError
from jaxllm.text import load_tokenizer
from tests.gguf_files import write_gguf
from tests.gguf_tiny import LLAMA, llama, vocabulary
from tests.test_text import END, TOKENS

QUANTIZED = [kind for kind in Kind if kind.name[0] in "QITMN" and kind.name not in ("I8", "I16", "I32", "I64")]


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16])
def test_stored_types(tmp_path, kind):
    tensors = llama()
    _, found, _ = present_gguf(write_gguf(tmp_path / "m.gguf", LLAMA, tensors, kind))
    stored = {Kind.F32: np.float32, Kind.F16: np.float16, Kind.BF16: ml_dtypes.bfloat16}[kind]
    assert found.keys() == tensors.keys()
    for name, tensor in found.items():
        assert tensor.dtype == (np.float32 if tensors[name].ndim == 1 else stored)
        array = tensor.read()
        assert (array.dtype, array.shape) == (tensor.dtype, tensor.shape)
        np.testing.assert_array_equal(array, tensors[name])
    assert not found["model.embed_tokens.weight"].read().flags.owndata  # a memory map


@pytest.mark.parametrize("kind", QUANTIZED, ids=lambda kind: kind.name)
def test_quantized_types(tmp_path, kind):
    """The bytes of a matrix, whatever they are, as `gguf` dequantises them; an unreadable kind is refused by name."""
    random, (weights, size) = np.random.default_rng(0), GGML_QUANT_SIZES[kind]
    data = random.integers(0, 256, (256, 256 // weights * size), np.uint8)
    tensors = llama()
    del tensors["model.layers.1.mlp.down_proj.weight"]
    path = write_gguf(
        *(tmp_path / "m.gguf", LLAMA, tensors),
        more=lambda writer: writer.add_tensor("blk.1.ffn_down.weight", data, raw_dtype=kind),
    )
    try:
        expected = dequantize(np.zeros_like(data), kind)
    except NotImplementedError:
        with pytest.raises(InputError, match=f"m.gguf: tensor blk.1.ffn_down.weight: its type {kind.name} cannot"):
            present_gguf(path)
        return
    with np.errstate(all="ignore"):
        expected = dequantize(data, kind)
    tensor = present_gguf(path).tensors["model.layers.1.mlp.down_proj.weight"]
    assert (tensor.dtype, tensor.shape) == (np.float32, (256, 256))
    np.testing.assert_array_equal(tensor.read(), expected)


@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0])
def test_quantized_model(tmp_path, kind):
    """Rows that llama.cpp has in another order were quantised in that order, and come back in Hugging Face's."""
    tensors = llama()
    _, found, _ = present_gguf(write_gguf(tmp_path / "m.gguf", LLAMA, tensors, kind))
    for name, tensor in tensors.items():
        expected = tensor if tensor.ndim == 1 else dequantize(quantize(tensor, kind), kind)
        np.testing.assert_array_equal(found[name].read(), expected)


def test_config_without_pytorch(tmp_path):
    config = present_gguf(write_gguf(tmp_path / "m.gguf", LLAMA, llama())).config
    expected = LLAMA | {"rope_theta": 10000.0, "head_dim": 64, "tie_word_embeddings": False, "hidden_act": "silu"}
    expected |= {"attention_bias": False, "mlp_bias": False, "bos_token_id": None, "eos_token_id": None}
    del expected["rope_parameters"]
    assert config == expected


def test_tied_where_the_head_is_absent_or_the_same(tmp_path):
    tensors = llama()
    for name, head in {"absent": None, "same": tensors["model.embed_tokens.weight"]}.items():
        given = tensors | {"lm_head.weight": head}
        path = write_gguf(tmp_path / f"{name}.gguf", LLAMA, {k: v for k, v in given.items() if v is not None})
        config, found, _ = present_gguf(path)
        assert config["tie_word_embeddings"]
        assert "lm_head.weight" not in found


def test_converted_with_its_vocabulary(tmp_path):
    """The native checkpoint has the same model as one from safetensors, and the tokenizer without the weights."""
    path = write_gguf(tmp_path / "model" / "m.gguf", LLAMA, llama(), more=vocabulary)
    source = open_source(path)
    assert source.layout == open_source(path.parent).layout == "gguf"
    assert source.config["eos_token_id"] == [len(TOKENS) - 1, 7]
    native = convert(path, tmp_path / "native")
    assert (native / "tokenizer.gguf").stat().st_size < 20_000 < path.stat().st_size
    assert GGUFReader(native / "tokenizer.gguf").tensors == []
    ours, theirs = load_tokenizer(native), load_tokenizer(path)
    assert ours.encode(f"hello{END}") == theirs.encode(f"hello{END}")
    assert ours.eos_token_ids == theirs.eos_token_ids == checkpoint.read_config(native).eos_token_ids
    assert ours.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False) == "hello!"
    again = convert(export(native, tmp_path / "exported"), tmp_path / "again")
    assert (again / "tokenizer.gguf").read_bytes() == (native / "tokenizer.gguf").read_bytes()


def split(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    """The shards that llama.cpp's own writer makes; the path of the first."""
    writer = GGUFWriter(path / "m.gguf", "llama", split_max_tensors=8)
    source = GGUFReader(write_gguf(path / "whole.gguf", LLAMA, tensors))
    for field in list(source.fields.values())[4:]:
        writer.add_key_value(field.name, field.contents(), field.types[0])
    for tensor in source.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (path / "whole.gguf").unlink()
    return path / "m-00001-of-00003.gguf"


def test_shards(tmp_path):
    tensors = llama()
    first = split(tmp_path, tensors)
    second = first.with_name("m-00002-of-00003.gguf")
    for path in (first, tmp_path):
        found = open_source(path).tensors
        assert found.keys() == tensors.keys()
        assert all(np.array_equal(found[name].read(), tensors[name]) for name in tensors)
    with pytest.raises(InputError, match=r"00002-of-00003.gguf: one shard of 3; give the first$"):
        open_source(second)
    first.rename(tmp_path / "renamed.gguf")
    with pytest.raises(InputError, match=r"renamed.gguf: split.count is 3, which its name"):
        open_source(tmp_path / "renamed.gguf")
    (tmp_path / "renamed.gguf").rename(first)
    second.write_bytes(first.read_bytes())
    with pytest.raises(InputError, match=r"00002-of-00003.gguf: split.no is 0, and its name makes it 1$"):
        open_source(first)
    second.unlink()
    with pytest.raises(InputError, match=r"00002-of-00003.gguf: not a file$"):
        open_source(first)
