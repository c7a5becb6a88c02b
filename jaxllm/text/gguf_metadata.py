"""The key-value part of a GGUF file, as far as it is about text.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; defaults and lists of names: llama.cpp.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gguf import TokenType

from jaxllm.errors import InputError
from jaxllm.text.files import Settings, library_errors
from jaxllm.text.gguf_header import Header, read_header

SPECIAL = (TokenType.CONTROL, TokenType.UNKNOWN)
_NAMES = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "sep_token": "seperator",  # sic
    "pad_token": "padding",
    "cls_token": "cls",
    "mask_token": "mask",
}
# Files seldom tell what ends a turn of a conversation; these names do.
_ENDS = (
    "<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <end_of_turn> <|endoftext|> <|eom_id|> <|end_of_text|> "
    "<EOT> _<EOT> [EOT] <end_of_utterance> <\uff5cend\u2581of\u2581sentence\uff5c>"
).split()


class Metadata:
    """What the file says, with the types checked.

    Attributes:
        model: the kind of vocabulary.
        tokens: the text of every token, in the order of their ids.
        types: a `TokenType` for each.
    """

    def __init__(self, path: Path, header: Header | None = None):
        self._values = (header or read_header(path)).values
        with library_errors(path):
            self.model: str = self.get("model", str, "")
            self.tokens = [token or f"[EMPTY_{i}]" for i, token in enumerate(self.array("tokens", str))]
            self.types: list[int] = self.array("token_type", int) or [TokenType.NORMAL] * len(self.tokens)
            if not self.tokens or len(self.types) != len(self.tokens) or len(set(self.tokens)) != len(self.tokens):
                raise InputError("its vocabulary is missing, incomplete or ambiguous")

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        """The value of a key, `default` where there is none."""
        value = self._values.get(key if key.startswith("tokenizer.") else f"tokenizer.ggml.{key}", default)
        if value is not None and not isinstance(value, kind):
            raise InputError(f"{key} is {str(value)[:80]!r}, not of type {kind.__name__}")
        return value

    def array(self, key: str, kind: type) -> list[Any]:
        """The list under a key, empty where there is none."""
        values = self.get(key, list, [])
        if not all(isinstance(value, kind) for value in values):
            raise InputError(f"{key} is not a list of type {kind.__name__}")
        return values

    def token_of(self, name: str, default: int | None = None) -> str | None:
        """The text of the token under `<name>_token_id`."""
        token_id = self.get(f"{name}_token_id", int, default)
        return self.tokens[token_id] if token_id is not None and token_id < len(self.tokens) else None

    def of_type(self, *types: int) -> list[str]:
        """The tokens of these types."""
        return [token for token, kind in zip(self.tokens, self.types, strict=True) if kind in types]

    def settings(self) -> Settings:
        """What other formats keep in files beside the vocabulary."""
        special = {name: token for name, key in _NAMES.items() if (token := self.token_of(key)) is not None}
        ends = [token for key in ("eos", "eot", "eom") if (token := self.token_of(key)) is not None]
        known = set(self.of_type(TokenType.CONTROL, TokenType.USER_DEFINED)).intersection(_ENDS)
        if "<|return|>" in known:  # where <|end|> ends a message, and not the turn
            known.discard("<|end|>")
        ids = {token: token_id for token_id, token in enumerate(self.tokens)}
        return Settings(
            special_tokens=special,
            eos_token_ids=tuple(ids[token] for token in [*ends, *sorted(known)]),
            chat_templates=self._chat_templates(),
        )

    def _chat_templates(self) -> dict[str, str]:
        prefix = "tokenizer.chat_template"
        keys = {name: f"{prefix}.{name}" for name in self.array(f"{prefix}s", str)} | {"default": prefix}
        return {name: template for name, key in keys.items() if (template := self.get(key, str)) is not None}
