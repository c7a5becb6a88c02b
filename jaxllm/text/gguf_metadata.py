"""The metadata of a GGUF file that concern text.

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
# Files rarely say which token ends a turn; these names do.
_ENDS = (
    "<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <end_of_turn> <|endoftext|> <|eom_id|> <|end_of_text|> "
    "<EOT> _<EOT> [EOT] <end_of_utterance> <\uff5cend\u2581of\u2581sentence\uff5c>"
).split()


class Metadata:
    """The metadata of a file, with checked types.

    Attributes:
      model: type of the vocabulary.
      tokens: text of every token, by id.
      types: `TokenType` of each token.
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
        """Returns the value of a key, or `default`."""
        value = self._values.get(key if key.startswith("tokenizer.") else f"tokenizer.ggml.{key}", default)
        if value is not None and not isinstance(value, kind):
            raise InputError(f"{key} is {str(value)[:80]!r}, not of type {kind.__name__}")
        return value

    def array(self, key: str, kind: type) -> list[Any]:
        """Returns the list of a key, or an empty one."""
        values = self.get(key, list, [])
        if not all(isinstance(value, kind) for value in values):
            raise InputError(f"{key} is not a list of type {kind.__name__}")
        return values

    def token_of(self, name: str, default: int | None = None) -> str | None:
        """Returns the text of the token with the id `<name>_token_id`."""
        token_id = self.get(f"{name}_token_id", int, default)
        if token_id is not None and token_id < len(self.tokens):
            return self.tokens[token_id]
        return None

    def of_type(self, *types: int) -> list[str]:
        """Returns the tokens of these types."""
        return [token for token, kind in zip(self.tokens, self.types, strict=True) if kind in types]

    def settings(self) -> Settings:
        """Returns what other formats store in files next to the vocabulary."""
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
