"""Tokenizers of every format against their expected ids and against Transformers, and streaming against decoding."""

import base64
import json
import random
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers import decoders, models, pre_tokenizers, processors

from jaxllm.errors import InputError
from jaxllm.text import Tokenizer, load_tokenizer
from jaxllm.text.byte_level import CHARACTER_OF
from jaxllm.text.gguf_metadata import Metadata

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "tokenizers"
LLAMA = "llama2-sentencepiece.model"
END = "<|endoftext|>"
TOKENS = [*CHARACTER_OF.values(), "he", "ll", "hell", "Ġw", END]
MERGES = ["h e", "l l", "he ll", "Ġ w"]
TALK = [{"role": "user", "content": "Hi <b> é"}, {"role": "assistant", "content": "Yo", "calls": [{"z": 1, "a": None}]}]

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the vocabularies of ../shared/data/tokenizers are not here")
quick = settings(max_examples=150, deadline=None, derandomize=True)


@cache
def load(name: str) -> Tokenizer:
    return load_tokenizer(DATA / name)


def streamed(tokenizer: Tokenizer, ids: list[int], skip_special_tokens: bool = True) -> str:
    stream = tokenizer.stream(skip_special_tokens)
    return "".join([stream.push(token_id) for token_id in ids] + [stream.finish()])


def check(tokenizer: Tokenizer, family: str) -> None:
    """Against llama.cpp's ids, which are without special tokens."""
    texts = (DATA / f"{family}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = (DATA / f"{family}.out").read_text("utf-8").split("\n")
    for text, line in zip(texts, lines, strict=True):
        ids = [int(number) for number in line.split()]
        assert tokenizer.encode(text, add_special_tokens=False) == ids
        assert streamed(tokenizer, ids) == tokenizer.decode(ids)
        assert tokenizer.decode(tokenizer.encode(text)) == text or family == "bert-bge"


def gpt2(directory: Path, tokens: list[str] = TOKENS, merges: list[str] = MERGES) -> Path:
    (directory / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}), "utf-8")
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
    return directory


def library(tokens: list[str] = TOKENS, merges: list[str] = MERGES) -> LibraryTokenizer:
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    tokenizer = LibraryTokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def write(directory: Path, tokenizer: LibraryTokenizer, **files: object) -> Path:
    tokenizer.save(str(directory / "tokenizer.json"))
    for name, value in files.items():
        (directory / f"{name}.json").write_text(json.dumps(value), "utf-8")
    return directory


@needs_data
@pytest.mark.parametrize("family", ["gpt-2", "llama-spm", "phi-3", "falcon", "mpt", "starcoder", "bert-bge"])
def test_gguf_gives_the_ids_of_llama_cpp(family):
    check(load(f"{family}.gguf"), family)


@needs_data
def test_gguf_that_names_no_pre_tokenizer():
    check(load("gpt-neox.gguf"), "mpt")  # the same vocabulary, in a file that does name one


@needs_data
def test_sentencepiece_gives_the_ids_of_llama_cpp():
    check(load(LLAMA), "llama-spm")


@needs_data
def test_gpt2_in_its_two_other_formats(tmp_path):
    metadata = Metadata(DATA / "gpt-2.gguf")
    merges = metadata.array("merges", str)
    check(load_tokenizer(gpt2(tmp_path, metadata.tokens, merges)), "gpt-2")
    check(load_tokenizer(write(tmp_path, library(metadata.tokens, merges))), "gpt-2")


def test_ids_need_not_follow_the_merges(tmp_path):
    shuffled = random.Random(0).sample(TOKENS, len(TOKENS))
    tokenizer = load_tokenizer(gpt2(tmp_path, shuffled))
    ids = library(shuffled).encode("hello hell world's end").ids
    assert tokenizer.encode("hello hell world's end") == ids
    assert tokenizer.decode([*ids, tokenizer.eos_token_ids[0]]) == "hello hell world's end"


@needs_data
def test_special_tokens_of_sentencepiece_and_gguf():
    llama, phi, bert = load(LLAMA), load("phi-3.gguf"), load("bert-bge.gguf")
    assert (llama.bos_token_id, llama.eos_token_ids, llama.vocab_size) == (1, (2,), 32000)
    assert llama.decode([1, 15043, 2, 15043]) == "Hello Hello"
    assert llama.decode([1, 15043, 2], skip_special_tokens=False) == "<s> Hello</s>"
    assert phi.eos_token_ids == (32000, 32007)  # of a text, and of a turn
    turn = phi.apply_chat_template([{"role": "user", "content": "Hello"}])
    assert turn == "<s><|user|>\nHello<|end|>\n<|assistant|>\n"
    assert [i for i in phi.encode(turn, add_special_tokens=False) if i < 3 or i >= 32000] == [1, 32010, 32007, 32001]
    assert bert.encode("Hello [MASK]!") == [101, 7592, 103, 999, 102]
    assert (bert.bos_token_id, bert.eos_token_ids, bert.decode([101, 7592, 999, 102])) == (None, (), "hello!")
    assert load("gpt-2.gguf").encode(f"Hello{END}") == [15496, 50256]


@needs_data
@pytest.mark.parametrize(
    ("config", "ids"),
    [
        ({}, [1, 15043, 2, 14058]),
        ({"add_bos_token": False, "add_eos_token": True}, [15043, 2, 14058, 2]),
        ({"legacy": True}, [1, 15043, 2, 2787]),
        ({"add_prefix_space": False}, [1, 10994, 2, 14058]),
        ({"added_tokens_decoder": {"32000": {"content": "</s>W", "special": True}}}, [1, 15043, 32000, 1613]),
    ],
)
def test_sentencepiece_with_a_config(tmp_path, config, ids):
    (tmp_path / "tokenizer.model").write_bytes((DATA / LLAMA).read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    assert load_tokenizer(tmp_path).encode("Hello</s>World") == ids


def test_llama3_as_meta_wrote_it(tmp_path):
    words = (b"%c%c" % (first, second) for first in range(256) for second in range(256))
    tokens = [*(bytes([byte]) for byte in range(256)), *words, *(b"%06d" % number for number in range(62_208))]
    lines = [b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens)]
    (tmp_path / "tokenizer.model").write_bytes(b"".join(lines))
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (128000, (128001, 128008, 128009))
    assert tokenizer.encode("x<|eot_id|>") == [128000, ord("x"), 128009]
    assert tokenizer.decode([128007, 128255], False) == "<|end_header_id|><|reserved_special_token_247|>"
    text = "Größe 12345 😶‍🌫️ कि" + "\n " * 60_000 + " " * 1_000_000 + "x"  # longer than tiktoken's stack is deep
    assert tokenizer.decode(tokenizer.encode(text)) == text
    (tmp_path / "tokenizer.model").write_bytes(b"".join(lines[1:]))
    with pytest.raises(InputError, match="127999 tokens, which is not Llama 3's"):
        load_tokenizer(tmp_path)


@pytest.mark.torch
@pytest.mark.parametrize("template", [False, True])
@pytest.mark.parametrize(
    "config",
    [{}, {"eos_token": END, "add_eos_token": True}, {"eos_token": {"__type": "AddedToken", "content": "<|im_end|>"}}],
)
def test_tokenizer_json_as_in_transformers(tmp_path, template, config):
    from transformers import AutoTokenizer

    tokenizer, added = library(), {"content": "<|im_end|>", "special": True, "lstrip": True, "rstrip": True}
    if template:
        tokenizer.add_special_tokens([END])
        tokenizer.post_processor = processors.TemplateProcessing(single=[END, "$A"], special_tokens=[(END, 260)])
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": {"261": added}, **config}
    config["chat_template"] = """{% set ns = namespace(n=0) %}
        {% for m in messages %}
            {%- if m.role == 'assistant' %}{% generation %}{% set q = 1 %}{{ m | tojson(indent=1) }}{% endgeneration %}
            {% else %}{{ m | tojson }}{{ q is defined }}{% continue %}{% endif %}{% set ns.n = ns.n + loop.index %}
        {% endfor %}
        {{ ns.n }}{{ eos_token }}{{ strftime_now('%Y') }}{{ tools is none }}{{ extra }}{{ add_generation_prompt }}"""
    path = write(tmp_path, tokenizer, tokenizer_config=config, generation_config={"eos_token_id": [261, 7]})
    theirs, ours = AutoTokenizer.from_pretrained(path), load_tokenizer(path)
    assert (ours.vocab_size, ours.eos_token_ids[-2:]) == (len(theirs), (261, 7))
    for text in (f"hell{END} w", "hello <|im_end|>  world", "", "  a"):
        for flag in (True, False):
            ids = theirs.encode(text, add_special_tokens=flag)
            assert ours.encode(text, add_special_tokens=flag) == ids
            assert ours.decode(ids, flag) == theirs.decode(ids, skip_special_tokens=flag)
            options = {"add_generation_prompt": flag, "extra": text}
            assert ours.apply_chat_template(TALK, **options) == theirs.apply_chat_template(
                TALK, tokenize=False, **options
            )


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=40)  # sentencepiece's space


@needs_data
@quick
@given(text=texts | st.text("aé\u0915\u093f\U0001f636\u200d\u4f60 \n'<", max_size=20))
def test_any_text_survives_and_streams_character_by_character(text):
    for tokenizer in (load("gpt-2.gguf"), load(LLAMA)):
        stream, ids = tokenizer.stream(), tokenizer.encode(text.replace(END, ""))
        pieces = [*map(stream.push, ids), stream.finish()]
        assert "".join(pieces) == tokenizer.decode(ids) == text.replace(END, "")
        assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


@needs_data
@quick
@given(data=st.data(), skip=st.booleans())
def test_any_ids_stream_to_what_they_decode_to(data, skip):
    processor = SentencePieceProcessor(model_file=str(DATA / LLAMA))
    for name, own_decode in ((LLAMA, processor.decode), ("gpt-2.gguf", None), ("bert-bge.gguf", None)):
        tokenizer = load(name)
        ids = data.draw(st.lists(st.integers(1, 300) | st.integers(1, tokenizer.vocab_size - 1), max_size=12))
        assert streamed(tokenizer, ids, skip) == tokenizer.decode(ids, skip)
        if (
            own_decode and min(ids, default=3) > 2
        ):  # control symbols cut characters in two there, but not in Transformers
            assert tokenizer.decode(ids) == own_decode(ids)


@pytest.mark.parametrize(
    "decoder",
    [
        None,
        decoders.ByteLevel(),
        decoders.Metaspace("t", "always"),
        decoders.Metaspace("t", "never"),
        decoders.WordPiece("h"),
        decoders.Sequence(
            [decoders.Replace("t", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        ),
        decoders.Sequence([decoders.Strip("t", 1, 0), decoders.Metaspace("é")]),
    ],
)
def test_decoders_of_tokenizer_json(tmp_path, decoder):
    tokens = ["the", "he", "t t", "t", "é", "eee", ".", "'s", "do not", "<0x41>", "Ġw", END]
    tokenizer = library(tokens, [])
    tokenizer.decoder = decoder  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens([END])
    ours, draw = load_tokenizer(write(tmp_path, tokenizer)), random.Random(0)
    for _ in range(500):
        ids, skip = draw.choices(range(len(tokens)), k=draw.randrange(6)), draw.random() < 0.5
        assert ours.decode(ids, skip) == tokenizer.decode(ids, skip_special_tokens=skip)


def test_bytes_are_shown_as_soon_as_they_are_a_character(tmp_path):
    tokenizer = library(["<0xF0>", "<0x9F>", "<0x98>", "<0xB6>", "▁a"], [])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    ours = load_tokenizer(write(tmp_path, tokenizer))
    stream = ours.stream()
    assert [stream.push(i) for i in (0, 1, 2, 3, 0, 1)] == ["", "", "", "😶", "", ""]
    assert stream.finish() == "\ufffd\ufffd"
    assert ours.decode([0, 1, 2, 3, 0, 1, 4]) == "😶\ufffd\ufffd a"
