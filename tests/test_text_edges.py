"""The edges of text: every pre-tokenizer, hostile templates, broken files and bad input (errors of one line)."""

import subprocess
import sys
from pathlib import Path

import pytest
from gguf import GGUFWriter
from tokenizers import Regex, pre_tokenizers

from jaxllm.errors import InputError
from jaxllm.text import load_tokenizer
from jaxllm.text.byte_level import PRE_TOKENIZERS
from tests.test_text import END, MERGES, TALK, TOKENS, gpt2, library, write


def gguf(path: Path, pre: str = "gpt-2", kind: str = "gpt2") -> Path:
    writer = GGUFWriter(path, "llama")
    writer.add_tokenizer_model(kind)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([1] * (len(TOKENS) - 1) + [3])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(len(TOKENS) - 1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpt-2", "I|'|LL| | pay| 12345|!|\n"),
        ("starcoder", "I|'|LL| | pay| |1|2|3|4|5|!|\n"),
        ("falcon", "I|'|LL| | pay| |123|45|!|\n"),
        ("llama-bpe", "I|'LL| | pay| |123|45|!\n"),
        ("qwen2", "I|'LL| | pay| |1|2|3|4|5|!\n"),
        ("tekken", "I|'LL| | pay| |1|2|3|4|5|!\n"),
        ("gpt-4o", "I'LL| | pay| |123|45|!\n"),
        ("deepseek-v3", "I|'LL| | pay| |123|45|!\n"),
    ],
)
def test_pre_tokenizers_cut_words(name, words):
    cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PRE_TOKENIZERS[name].patterns]
    found = pre_tokenizers.Sequence(cuts).pre_tokenize_str("I'LL  pay 12345!\n")  # pyright: ignore[reportArgumentType]
    assert "|".join(word for word, _ in found) == words


def test_pre_tokenizers_lose_nothing(tmp_path):
    for name in PRE_TOKENIZERS:
        tokenizer = load_tokenizer(gguf(tmp_path / "toy.gguf", name))
        for text in ("hello  wörld's 1234567\r\n\n\t x? 你好《たで》 'LL...", " \n ", "3.14 a_b  "):
            assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id') }}",
        "{{ messages.append(1) }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ range(10 ** 9) | list }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for m in",
        "{% include '/etc/passwd' %}",
        "{{ raise_exception('roles must\n alternate') }}",
        "{{ nothing.at.all }}",
    ],
)
def test_templates_that_misbehave(tmp_path, template):
    config = {"chat_template": [{"name": "tool_use", "template": template}, {"name": "fine", "template": "fine"}]}
    tokenizer = load_tokenizer(write(tmp_path, library(), tokenizer_config=config))
    assert tokenizer.apply_chat_template(TALK, chat_template="fine") == "fine"
    with pytest.raises(InputError, match=r"^chat template of .*tokenizer\.json: .+$"):
        tokenizer.apply_chat_template(TALK, tools=[])
    for arguments in ({}, {"tools": [print]}, {"chat_template": "{{ messages }}", "messages": "Hi"}):
        with pytest.raises(InputError, match=r"^[^\n]+$"):
            tokenizer.apply_chat_template(**{"messages": TALK, **arguments})


HOSTILE = {
    "tokenizer.json": [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"model": {"type": "Unigram", "vocab": []}}'],
    "tokenizer.model": [b"", b"\n", b"nonsense", b"IQ== 0\nIg== 1\n", b"IQ== 0\n??? 1\n", b"\x0a\xff\xff\xff\xff\x0f"],
    "vocab.json": [b"", b"[]", b'{"a": 0}', b'{"a": "b"}', b'{"a": -1}'],
    "merges.txt": [b"a b\n", b"h e l\n", b"he\n", b"\xff"],
    "tokenizer_config.json": [b"{", b"[]", b'{"eos_token": 5}', b'{"added_tokens_decoder": {"x": {"content": "a"}}}'],
    "generation_config.json": [b"null", b'{"eos_token_id": "</s>"}', b'{"eos_token_id": [1.5]}'],
    "toy.gguf": [b"", b"GGUF", b"GGUF\x03" + b"\xff" * 60],
    "tekken.json": [b"{}"],
    "notes.txt": [b"hello"],
}


@pytest.mark.parametrize(("name", "content"), [(name, content) for name in HOSTILE for content in HOSTILE[name]])
def test_hostile_files(tmp_path, name, content):
    path = gpt2(tmp_path) / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"^[^\n]*{name}[^\n]*$"):
        load_tokenizer(tmp_path / "vocab.json" if name.endswith("_config.json") else path)


def test_gguf_cut_or_foreign(tmp_path):
    whole = gguf(tmp_path / "toy.gguf").read_bytes()
    assert load_tokenizer(tmp_path).encode(f"hell{END}") == [258, 260]
    for size in range(0, len(whole), 97):
        (tmp_path / "toy.gguf").write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"^[^\n]*toy\.gguf: not a whole GGUF file[^\n]*$"):
            load_tokenizer(tmp_path)
    for arguments in ({"kind": "rwkv"}, {"pre": "nobody"}, {"kind": "llama"}):
        with pytest.raises(InputError, match=r"^[^\n]*toy\.gguf: its [^\n]*$"):
            load_tokenizer(gguf(tmp_path / "toy.gguf", **arguments))
    (tmp_path / "other.gguf").touch()
    with pytest.raises(InputError, match="several GGUF files"):
        load_tokenizer(tmp_path)


def test_input_that_no_vocabulary_has(tmp_path):
    tokenizer = load_tokenizer(gpt2(tmp_path))
    for token_id in (-1, len(TOKENS), 2**70):
        with pytest.raises(InputError, match="not in the vocabulary"):
            tokenizer.decode([0, token_id])
    with pytest.raises(InputError, match="lone surrogate at character 1"):
        tokenizer.encode("a\ud800")
    for path in (tmp_path / "nowhere", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(InputError, match=path.name):
            load_tokenizer(path)


def test_backends_are_imported_when_needed():
    program = "import sys, jaxllm.text; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert {"gguf", "jinja2", "numpy", "sentencepiece", "tiktoken", "tokenizers"}.isdisjoint(modules)
