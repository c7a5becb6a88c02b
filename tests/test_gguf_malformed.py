"""Whatever is wrong with a GGUF file is told in one line that names the file and the culprit."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter, RopeScalingType

from conversion.source import open_source
from jaxllm.errors import InputError
from jaxllm.text import load_tokenizer
from tests.gguf_files import write_gguf
from tests.gguf_tiny import LLAMA, llama, vocabulary

SMALL = LLAMA | {"vocab_size": 16}
Change = Callable[[bytes], bytes]
Make = Callable[[Path], None]
More = Callable[[GGUFWriter], Any]


def damaged(change: Change, more: More = lambda writer: None) -> Make:
    """A file whose bytes were changed."""

    def make(path: Path) -> None:
        path.write_bytes(change(write_gguf(path, SMALL, llama(SMALL), more=more).read_bytes()))

    return make


def renamed(before: bytes, after: bytes, more: More = lambda writer: None) -> Make:
    """A key or tensor under another name of the same length."""
    assert len(before) == len(after)
    return damaged(lambda data: data.replace(before, after, 1), more)


def field(tensor: bytes, offset: int, form: str, value: int, more: More = lambda writer: None) -> Make:
    """A number after a name. Of a matrix there follow rank, two sizes, type and position; of a key, type and value."""

    def change(data: bytes) -> bytes:
        at = data.index(tensor) + len(tensor) + offset
        return data[:at] + struct.pack(form, value) + data[at + struct.calcsize(form) :]

    return damaged(change, more)


def block_count(value: int) -> Make:
    return field(b"llama.block_count", 4, "<I", value)


def wrote(more: More = lambda writer: None, drop: str = "", **config: Any) -> Make:
    """A sound file of something that is not: more keys or tensors, a tensor dropped, a config changed."""

    def make(path: Path) -> None:
        tensors = {name: tensor for name, tensor in llama(SMALL).items() if name != drop}
        write_gguf(path, SMALL | config, tensors, more=more)

    return make


def tensor(name: str, size: int, low: float = 1.0) -> Make:
    return wrote(lambda writer: writer.add_tensor(name, np.linspace(low, 4, size, dtype=np.float32)))


def integer(key: str, value: int) -> Make:
    return wrote(lambda writer: writer.add_uint32(key, value))


def text(key: str, value: str) -> Make:
    return wrote(lambda writer: writer.add_string(key, value))


Q = b"blk.1.attn_q.weight"
LINEAR = RopeScalingType.LINEAR
ROPE = "llama.rope.scaling."
CASES: dict[str, tuple[Make, str]] = {
    "empty": (damaged(lambda data: b""), "not a whole GGUF file"),
    "magic": (damaged(lambda data: b"GGML" + data[4:]), "it does not begin with 'GGUF'"),
    "old version": (damaged(lambda data: data[:4] + b"\1" + data[5:]), "version 1 "),
    "big-endian": (damaged(lambda data: data[:4] + data[7:3:-1] + data[8:]), "version 50331648 .big-endian"),
    "cut in the header": (damaged(lambda data: data[:300]), "it ends within its header"),
    "cut in the data": (damaged(lambda data: data[:-4096]), "tensor .*: truncated: ends at byte"),
    "many tensors": (damaged(lambda data: data[:8] + b"\xff" * 8 + data[16:]), "not a whole GGUF file"),
    "many keys": (damaged(lambda data: data[:16] + b"\xff" * 8 + data[24:]), "not a whole GGUF file"),
    "key twice": (
        renamed(b"llama.block_kount", b"llama.block_count", lambda w: w.add_uint32("llama.block_kount", 2)),
        "llama.block_count is there twice",
    ),
    "tensor twice": (renamed(Q, b"blk.0.attn_q.weight"), "tensor blk.0.attn_q.weight is there twice"),
    "key of garbage": (renamed(b"general.file_type", b"general.file\n\x00\xc3\xa9\x07"), "printable characters"),
    "no UTF-8": (renamed(b"general.file_type", b"general.file\xff\xff\xff\xff\xff"), "is not UTF-8"),
    "rank": (field(Q, 0, "<I", 5), "tensor blk.1.attn_q.weight has 5 dimensions"),
    "no rows": (field(Q, 12, "<Q", 0), "has a dimension of 0"),
    "many rows": (field(Q, 12, "<Q", 2**62), "tensor blk.1.attn_q.weight: truncated"),
    "unknown type": (field(Q, 20, "<I", 31), "tensor blk.1.attn_q.weight: of the unknown type 31"),
    "unreadable type": (field(Q, 20, "<I", 15), "tensor blk.1.attn_q.weight: its type Q8_K cannot be read"),
    "integers": (field(Q, 20, "<I", 26), "tensor blk.1.attn_q.weight: its type I32 cannot be read"),
    "half a block": (
        field(b"odd", 20, "<I", 2, lambda w: w.add_tensor("odd", np.ones((2, 33), np.float32))),
        "tensor odd: rows of 33, which Q4_0's blocks of 32 do not divide",
    ),
    "far away": (field(Q, 24, "<Q", 2**40), "tensor blk.1.attn_q.weight: truncated"),
    "alignment": (integer("general.alignment", 3), "general.alignment is not a power of two"),
    "no architecture": (renamed(b"general.architecture", b"general.architecturE"), "general.architecture is missing"),
    "architecture": (
        renamed(b"\0\0\0llama", b"\0\0\0ollam"),
        "general.architecture 'ollam' is not supported; known: llama, ",
    ),
    "adapter": (text("general.type", "adapter"), "general.type='adapter' is not supported"),
    "old quantisation": (integer("general.quantization_version", 1), "general.quantization_version=1 is not supported"),
    "missing key": (renamed(b"llama.block_count", b"llama.block_Count"), "llama.block_count is missing"),
    "unknown key": (integer("llama.attention.sliding_window", 4), "llama.attention.sliding_window=4 is not supported"),
    "unknown namespace": (integer("adapter.lora.alpha", 4), "adapter.lora.alpha=4 is not supported"),
    "many layers": (block_count(4096), "tensor 'blk.2.attn_norm.weight' is missing"),
    "too many layers": (block_count(2**31), "llama.block_count must be a whole number from 1 to 4096"),
    "no epsilon": (wrote(rms_norm_eps=0.0), "llama.attention.layer_norm_rms_epsilon must be a positive number"),
    "infinite": (
        wrote(rope_parameters={"rope_theta": float("inf")}),
        "llama.rope.freq_base must be a positive number, not inf",
    ),
    "vocabulary": (wrote(vocab_size=17), "llama.vocab_size is not 16, the rows of token_embd.weight"),
    "heads": (wrote(num_key_value_heads=4), "'blk.0.attn_k.weight' has 128 rows, but its metadata make it 256"),
    "head sizes": (integer("llama.attention.value_length", 32), "llama.attention.value_length is not .*, 64"),
    "part of a head": (
        wrote(rope_parameters={"rope_theta": 1e4, "partial_rotary_factor": 0.5}),
        "llama.rope.dimension_count=32 is not supported for heads of size 64",
    ),
    "experts": (
        wrote(lambda w: [w.add_expert_count(2), w.add_expert_used_count(1)]),
        "'blk.0.ffn_gate_inp.weight' is missing",
    ),
    "causal": (wrote(lambda w: w.add_causal_attention(False)), "llama.attention.causal=False is not supported"),
    "rope scaling": (text(ROPE + "type", "dynamic"), "llama.rope.scaling.type='dynamic' is not supported"),
    "no rope factor": (text(ROPE + "type", "yarn"), "llama.rope.scaling.factor is missing"),
    "scale unused": (wrote(lambda w: w.add_rope_scaling_factor(4.0)), "llama.rope.scaling.factor=4.0 is not supported"),
    "rope_freqs": (tensor("rope_freqs.weight", 33), "tensor rope_freqs.weight: missing, or not of 32"),
    "rope_freqs of another": (
        tensor("rope_freqs.weight", 32, low=2.0),
        "tensor rope_freqs.weight: not the scaling of Llama 3",
    ),
    "two scalings": (
        wrote(lambda w: [w.add_tensor("rope_freqs.weight", np.ones(32, np.float32)), w.add_rope_scaling_type(LINEAR)]),
        "tensor rope_freqs.weight: not handled beside rotary scaling of type 'linear'",
    ),
    "missing tensor": (wrote(drop="model.norm.weight"), "tensor 'output_norm.weight' is missing"),
    "missing embedding": (wrote(drop="model.embed_tokens.weight"), "tensor token_embd.weight: missing"),
    "one more": (tensor("blk.0.attn_sinks.weight", 4), "tensor 'blk.0.attn_sinks.weight' is not one of a llama model"),
    "shard": (integer("split.count", 3), "split.count is 3, which its name"),
    "shard's total": (integer("split.tensors.count", 3), "split.tensors.count is 3, but the shards hold 21"),
    "eos": (text("tokenizer.ggml.eos_token_id", "</s>"), "tokenizer.ggml.eos_token_id must be token ids"),
}


@pytest.mark.parametrize("case", CASES)
def test_malformed(tmp_path, case):
    make, message = CASES[case]
    make(tmp_path / "m.gguf")
    with pytest.raises(InputError, match=message) as caught:
        open_source(tmp_path / "m.gguf")
    assert str(caught.value).startswith(str(tmp_path / "m.gguf"))
    assert "\n" not in str(caught.value)


def test_header_lengths_are_not_believed(tmp_path):
    """Also by the tokenizer: a count that is false is found out at once, whatever has it."""
    data = write_gguf(tmp_path / "m.gguf", LLAMA, llama(), more=vocabulary).read_bytes()
    at = data.index(b"tokenizer.ggml.tokens") + len(b"tokenizer.ggml.tokens") + 8
    for position in (8, 16, at, at + 8):
        (tmp_path / "m.gguf").write_bytes(data[:position] + struct.pack("<Q", 2**60) + data[position + 8 :])
        for read in (open_source, load_tokenizer):
            with pytest.raises(InputError, match=r"^[^\n]*m.gguf: not a whole GGUF file[^\n]*$"):
                read(tmp_path / "m.gguf")


def test_random_damage(tmp_path):
    """Any bytes changed in the header: what is read is sound, or refused in one line that names the file."""
    whole = write_gguf(tmp_path / "m.gguf", SMALL, llama(SMALL)).read_bytes()
    header = whole.index(b"output_norm.weight")
    random = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole)
        for position in random.integers(0, header + 60, 3):
            data[position] = random.choice([0, 1, 255, int(random.integers(256))])
        (tmp_path / "m.gguf").write_bytes(data[: random.choice([len(data), int(random.integers(len(data)))])])
        said = ""
        try:
            tensors = open_source(tmp_path / "m.gguf").tensors
            assert all(tensor.read().shape == tensor.shape for tensor in tensors.values())
        except InputError as error:
            said = str(error)
        assert said.startswith(str(tmp_path / "m.gguf") if said else "")
        assert "\n" not in said
