"""The JSON files next to a vocabulary, in which Transformers stores special tokens, ids and chat templates."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxllm.errors import InputError
from jaxllm.text.added_tokens import AddedToken

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class Settings:
    """Contents of the files next to a vocabulary; None or empty if they do not say.

    Attributes are named as in those files. `special_tokens` maps `bos_token` and others to text. `bos_token_id` and
    `eos_token_ids` come from generation_config.json, `added_tokens` from tokenizer_config.json and added_tokens.json.
    """

    special_tokens: Mapping[str, str] = field(default_factory=dict)
    added_tokens: tuple[AddedToken, ...] = ()
    add_bos: bool | None = None
    add_eos: bool | None = None
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    chat_templates: Mapping[str, str] = field(default_factory=dict)
    tokenizer_class: str | None = None
    legacy: bool = False
    add_prefix_space: bool | None = None


@contextmanager
def library_errors(name: Path | str) -> Iterator[None]:
    """Turns anything that a library raises, including Rust panics, into a one-line error about the file `name`."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        if isinstance(error, InputError) and str(error).startswith(str(name)):
            raise
        told = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{name}: {told[:300]}") from error


def read_text(path: Path) -> str:
    """Reads a UTF-8 file with its line endings. Raises InputError if it cannot be read."""
    with library_errors(path):
        return path.read_bytes().decode("utf-8-sig")


def read_object(path: Path) -> dict[str, Any]:
    """Reads the JSON object in a file; {} if there is no file. Raises InputError for anything else."""
    if not path.is_file():
        return {}
    with library_errors(path):
        value = json.loads(read_text(path))
        if not isinstance(value, dict):
            raise InputError("not a JSON object")
        return value


def read_settings(directory: Path) -> Settings:
    """Reads a directory's JSON files about its tokenizer, all optional. Raises InputError if one is broken."""
    path = directory / "tokenizer_config.json"
    config = read_object(path)
    with library_errors(generation_path := directory / "generation_config.json"):
        generation = read_object(directory / "config.json") | read_object(generation_path)
        bos = _ids(generation, "bos_token_id")
        eos = _ids(generation, "eos_token_id")
    with library_errors(path):
        return Settings(
            special_tokens=_special_tokens(read_object(directory / "special_tokens_map.json") | config),
            added_tokens=tuple(_added_tokens(config, read_object(directory / "added_tokens.json"))),
            add_bos=_typed(config, "add_bos_token", bool),
            add_eos=_typed(config, "add_eos_token", bool),
            bos_token_id=bos[0] if bos else None,
            eos_token_ids=eos,
            chat_templates=_chat_templates(directory, config),
            tokenizer_class=_typed(config, "tokenizer_class", str),
            legacy=_typed(config, "legacy", bool) or False,
            add_prefix_space=_typed(config, "add_prefix_space", bool),
        )


def _typed(config: Mapping[str, Any], key: str, kind: type) -> Any:
    value = config.get(key)
    if value is not None and not isinstance(value, kind):
        raise InputError(f"{key} is {str(value)[:80]!r}, not of type {kind.__name__}")
    return value


def _ids(config: Mapping[str, Any], key: str) -> tuple[int, ...]:
    """Returns the ids of a key that holds one id, a list or null; negative ids are left out."""
    value = config.get(key)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if any(type(item) is not int for item in ids):
        raise InputError(f"{key} is {str(value)[:80]}, not a token id or a list of them")
    return tuple(item for item in ids if item >= 0)


def _text(token: Any) -> Any:
    """Returns the text of a token that is stored as text, or as an object with `content`."""
    if isinstance(token, dict):
        return token.get("content")
    return token


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    tokens = {name: _text(config[name]) for name in NAMED_TOKENS if config.get(name) is not None}
    return {name: _typed(tokens, name, str) for name in tokens}


def _added_tokens(config: Mapping[str, Any], ids: Mapping[str, Any]) -> Iterator[AddedToken]:
    described = _typed(config, "added_tokens_decoder", dict) or {}
    for key, token in described.items():
        flags = {name: token.get(name) is True for name in ("lstrip", "rstrip", "single_word", "normalized", "special")}
        yield AddedToken(int(key), _typed(token, "content", str) or "", **flags)
    for content, token_id in ids.items():
        if str(token_id) not in described:
            yield AddedToken(int(token_id), content)


def _chat_templates(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Returns chat templates by name; a single one is "default". Files of their own take precedence over the config."""
    templates: dict[str, str] = {}
    for source in (config, read_object(directory / "chat_template.json")):
        value = source.get("chat_template")
        named = value if isinstance(value, list) else [] if value is None else [{"name": "default", "template": value}]
        templates |= {_typed(item, "name", str): _typed(item, "template", str) for item in named}
    if (path := directory / "chat_template.jinja").is_file():
        templates["default"] = read_text(path)
    extra = sorted((directory / "additional_chat_templates").glob("*.jinja"))
    return templates | {path.stem: read_text(path) for path in extra}
