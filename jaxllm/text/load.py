"""Loads a tokenizer from a path: finds its file, and imports the backend that reads it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from jaxllm.errors import InputError
from jaxllm.text.files import library_errors, read_settings
from jaxllm.text.tokenizer import Tokenizer

_KNOWN = "tokenizer.json, tokenizer.model, vocab.json with merges.txt, or a .gguf file"


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Reads a tokenizer from a file, or from the directory of a model.

    Of a directory's files the first of these is read: tokenizer.json (Hugging Face), tokenizer.model (sentencepiece, or
    Meta's for Llama 3), vocab.json with merges.txt (GPT-2), NAME.gguf. All but the last take special tokens and the
    chat template from the files that Transformers keeps beside them (tokenizer_config.json and others), if there.

    Raises:
      InputError: no such file, none of these formats, or a broken one.
    """
    path = Path(path)
    with library_errors(path):
        file = _find(path) if path.is_dir() else path
        if file is None:
            tekken = " (Mistral's tekken.json is not read)"
            if not (path / "tekken.json").exists():
                tekken = ""
            raise InputError(f"no tokenizer here{tekken}: looked for {_KNOWN}")
        if not file.is_file():
            raise InputError("no such file or directory")
        return _reader(file)(file)


def has_tokenizer(directory: str | Path) -> bool:
    """Whether `load_tokenizer` would find something to read in a directory."""
    return _find(Path(directory)) is not None


def _find(directory: Path) -> Path | None:
    for name in ("tokenizer.json", "tokenizer.model"):
        if (file := directory / name).is_file():
            return file
    if all((directory / name).is_file() for name in ("vocab.json", "merges.txt")):
        return directory / "vocab.json"
    return only_gguf(directory)


def only_gguf(directory: Path) -> Path | None:
    """The directory's GGUF file; of one cut into shards the first, which has the vocabulary. InputError if several."""
    later_shard = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$")
    files = [file for file in sorted(directory.glob("*.gguf")) if not later_shard.search(file.name)]
    if len(files) > 1:
        raise InputError(f"several GGUF files, such as {files[0].name} and {files[1].name}: name one of them")
    if files:
        return files[0]
    return None


def _reader(file: Path) -> Callable[[Path], Tokenizer]:
    if file.name == "tekken.json":
        raise InputError("Mistral's Tekken format is not read; use the model's tokenizer.json")
    if file.suffix == ".gguf":
        return _read_gguf
    if file.name in ("vocab.json", "merges.txt"):
        return _read_gpt2
    if file.suffix == ".json":
        return _read_tokenizer_json
    if ".model" in file.suffixes:
        return _read_model
    raise InputError(f"not a tokenizer: expected {_KNOWN}")


def _read_tokenizer_json(file: Path) -> Tokenizer:
    from jaxllm.text.huggingface import load_tokenizer_json

    return load_tokenizer_json(file, read_settings(file.parent))


def _read_model(file: Path) -> Tokenizer:
    from jaxllm.text.sentencepiece_model import load_sentencepiece
    from jaxllm.text.tiktoken_bpe import is_tiktoken, load_llama3

    return (load_llama3 if is_tiktoken(file) else load_sentencepiece)(file, read_settings(file.parent))


def _read_gpt2(file: Path) -> Tokenizer:
    from jaxllm.text.tiktoken_bpe import load_gpt2

    vocab = file.with_name("vocab.json")
    merges = file.with_name("merges.txt")
    return load_gpt2(vocab, merges, read_settings(file.parent))


def _read_gguf(file: Path) -> Tokenizer:
    from jaxllm.text.gguf_vocabulary import load_gguf

    return load_gguf(file)
