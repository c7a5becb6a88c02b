"""The decoders of tokenizer.json, applied token by token: each maps a token's text, and knows whether it is the first.

Bytes that are not text pass through the decoders as lone surrogates (Python's `surrogateescape`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jaxllm.errors import InputError
from jaxllm.text.byte_level import to_bytes
from jaxllm.text.stream import REPLACE_EACH_BYTE

Step = Callable[[str, bool], str]

# Clean-ups of the WordPiece decoder, in this order.
_TIDY = [(f" {mark}", mark) for mark in ".?!,"]
_TIDY += [(" ' ", "'"), (" n't", "n't"), (" 'm", "'m"), (" do not", " don't")]
_TIDY += [(f" {ending}", ending) for ending in ("'s", "'ve", "'re")]


def decoder_of(spec: Mapping[str, Any] | None) -> tuple[Callable[[str, bool], bytes], str]:
    """Returns functions for a `decoder` entry: token to bytes, and bytes that are not UTF-8 to text.

    Raises:
      InputError: the decoder's type is not supported.
    """
    specs = spec["decoders"] if spec and spec["type"] == "Sequence" else [spec] if spec else []
    kinds = [step["type"] for step in specs]
    fused = kinds.index("Fuse") if "Fuse" in kinds else len(kinds)
    steps = [_step(step, at > fused) for at, step in enumerate(specs)] or [_words]

    def decode(token: str, first: bool) -> bytes:
        for step in steps:
            token = step(token, first)
        return token.encode("utf-8", "surrogateescape")

    return decode, REPLACE_EACH_BYTE if "ByteFallback" in kinds else "replace"


def _step(spec: Mapping[str, Any], fused: bool) -> Step:
    """Returns one decoder; `fused` if it applies to the whole text, of which only the start is known."""
    make = _STEPS.get(spec["type"])
    if make is None:
        raise InputError(f"its decoder {spec['type']} is not supported")
    return make(spec, fused)


def _words(token: str, first: bool) -> str:
    """Joins tokens as words, where there is no decoder."""
    if first:
        return token
    return f" {token}"


def _fuse(spec: Mapping[str, Any], fused: bool) -> Step:
    return lambda token, first: token


def _byte_level(spec: Mapping[str, Any], fused: bool) -> Step:
    return lambda token, first: to_bytes(token).decode("utf-8", "surrogateescape")


def _byte_fallback(spec: Mapping[str, Any], fused: bool) -> Step:
    def step(token: str, first: bool) -> str:
        if len(token) != 6 or not token.startswith("<0x") or not token.endswith(">"):
            return token
        try:
            return bytes.fromhex(token[3:5]).decode("utf-8", "surrogateescape")
        except ValueError:
            return token

    return step


def _replace(spec: Mapping[str, Any], fused: bool) -> Step:
    pattern = spec["pattern"].get("String")
    if not pattern or (fused and len(pattern) > 1):
        raise InputError(f"its decoder replaces {spec['pattern']}, which is not supported")
    return lambda token, first: token.replace(pattern, spec["content"])


def _strip(spec: Mapping[str, Any], fused: bool) -> Step:
    character = spec["content"]
    start = spec["start"]
    stop = spec["stop"]
    if fused and stop:
        raise InputError("its decoder strips the end of a text, which is not supported")

    def step(token: str, first: bool) -> str:
        if first or not fused:
            token = token[min(start, len(token) - len(token.lstrip(character))) :]
            token = token[: len(token) - min(stop, len(token) - len(token.rstrip(character)))]
        return token

    return step


def _metaspace(spec: Mapping[str, Any], fused: bool) -> Step:
    at_start = " "
    if spec.get("prepend_scheme") != "never":
        at_start = ""
    return lambda token, first: token.replace(spec["replacement"], at_start if first else " ")


def _word_piece(spec: Mapping[str, Any], fused: bool) -> Step:
    prefix = spec["prefix"]
    cleanup = spec["cleanup"]

    def step(token: str, first: bool) -> str:
        if not first:
            if token.startswith(prefix):
                token = token.removeprefix(prefix)
            else:
                token = f" {token}"
        for untidy, tidy in _TIDY if cleanup else ():
            token = token.replace(untidy, tidy)
        return token

    return step


_STEPS: dict[str, Callable[[Mapping[str, Any], bool], Step]] = {
    "ByteFallback": _byte_fallback,
    "ByteLevel": _byte_level,
    "Fuse": _fuse,
    "Metaspace": _metaspace,
    "Replace": _replace,
    "Strip": _strip,
    "WordPiece": _word_piece,
}
