"""Byte-level BPE (GPT-2): bytes written as visible characters, and the regular expressions that split words."""

from __future__ import annotations

from dataclasses import dataclass, replace


def _characters() -> dict[int, str]:
    """Returns GPT-2's table: visible Latin-1 characters stand for themselves, other bytes for U+0100 and following."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + place) for place, byte in enumerate(hidden)}


CHARACTER_OF = _characters()
BYTE_OF = {character: byte for byte, character in CHARACTER_OF.items()}


def to_bytes(token: str) -> bytes:
    """Returns the bytes that a byte-level token spells; a token with any other character spells itself."""
    try:
        return bytes([BYTE_OF[character] for character in token])
    except KeyError:
        return token.encode("utf-8")


_CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+{0}"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*{0}"
)
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_AFTER_WORDS = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_AFTER_WORDS}"
_QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_AFTER_CASED = _AFTER_WORDS.replace(r"[\r\n]*", r"[\r\n/]*")
_TEKKEN = _CASED.replace("{0}", "") + r"|\p{N}|" + _AFTER_CASED
_GPT4O = _CASED.replace("{0}", f"{_CONTRACTION}?") + r"|\p{N}{1,3}|" + _AFTER_CASED
_DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
)


@dataclass(frozen=True)
class PreTokenizer:
    """How a text is split into words before BPE: each pattern splits further what the previous ones left.

    With `ignore_merges` a word that is a token stays whole. `add_bos` is the default for GGUF files that do not say.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False


_LLAMA3 = PreTokenizer((LLAMA3,))
_FAMILIES = {
    "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    "gpt-2 phi-2 mpt olmo jais trillion exaone4 jina-es jina-de gigachat": PreTokenizer((GPT2,)),
    "starcoder refact command-r smollm codeshell exaone minerva-7b": PreTokenizer((r"\p{N}", GPT2)),
    "falcon": PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]")),
    "dbrx smaug-bpe glm4 chatglm-bpe": _LLAMA3,
    "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral lfm2": replace(_LLAMA3, ignore_merges=True, add_bos=True),
    "qwen2 deepseek-r1-qwen stablelm2 megrez hunyuan": PreTokenizer((_QWEN2,)),
    "tekken": PreTokenizer((_TEKKEN,), ignore_merges=True, add_bos=True),
    "gpt-4o llama4 kanana2": PreTokenizer((_GPT4O,)),
    "deepseek-v3 hunyuan-dense": PreTokenizer((r"\p{N}{1,3}", "[一-龥\u3040-\u309f\u30a0-\u30ff]+", _DEEPSEEK3)),
}
# Keys are llama.cpp's values of `tokenizer.ggml.pre`.
PRE_TOKENIZERS = {name: family for names, family in _FAMILIES.items() for name in names.split()}
