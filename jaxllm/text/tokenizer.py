"""The tokenizer: one interface to every kind of vocabulary."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from jaxllm.errors import InputError
from jaxllm.text.chat import render_chat
from jaxllm.text.files import Settings
from jaxllm.text.stream import TextStream


class Vocabulary(Protocol):
    """What a backend provides: text to ids, and each id as bytes."""

    size: int  # ids are 0 .. size - 1
    special_ids: frozenset[int]  # left out of decoded text unless asked for
    errors: str  # what becomes of bytes that are not UTF-8, as in `bytes.decode`

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """The ids of a text, with those that the model expects around it or without."""
        ...

    def piece(self, token_id: int, first: bool) -> bytes | None:
        """The token as bytes, `first` of its text or not; None where the vocabulary has a hole."""
        ...

    def token_id(self, token: str) -> int | None:
        """The id of a token by its text, as the files spell it; None if there is no such token."""
        ...


class Tokenizer:
    """Text to token ids and back, with the model's special tokens and chat template.

    Attributes:
      vocab_size: one more than the largest id. A model's own embedding is often padded beyond it.
      bos_token_id: None where the model has none.
      eos_token_ids: every id that ends a generation; empty where none is known.
      special_tokens: `bos_token`, `eos_token`, ... to their text, as the chat template sees them.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        name: str,
        *,
        bos_token_id: int | None = None,
        eos_token_ids: Iterable[int] = (),
        special_tokens: Mapping[str, str] | None = None,
        chat_templates: Mapping[str, str] | None = None,
    ):
        self.name = name
        self.vocab_size = vocabulary.size
        self.bos_token_id = bos_token_id
        self.eos_token_ids = tuple(dict.fromkeys(eos_token_ids))
        self.special_tokens = dict(special_tokens or {})
        self._templates = dict(chat_templates or {})
        self._vocabulary = vocabulary

    @classmethod
    def from_settings(
        cls, vocabulary: Vocabulary, name: str, settings: Settings, bos: int | None = None, *eos: int | None
    ) -> Tokenizer:
        """Creates a tokenizer with the vocabulary's BOS and EOS, unless the files beside it name others.

        Those files may name further EOS ids.
        """
        ids = {key: vocabulary.token_id(token) for key, token in settings.special_tokens.items()}
        begins = _valid(ids.get("bos_token"), bos)
        ends = _valid(ids.get("eos_token")) or _valid(*eos)
        texts = {
            key: (vocabulary.piece(found[0], False) or b"").decode("utf-8", "replace")
            for key, found in {"bos_token": begins, "eos_token": ends}.items()
            if found and found[0] < vocabulary.size
        }
        return cls(
            vocabulary,
            name,
            bos_token_id=begins[0] if begins else settings.bos_token_id,
            eos_token_ids=ends + settings.eos_token_ids,
            special_tokens={**texts, **settings.special_tokens},
            chat_templates=settings.chat_templates,
        )

    def __repr__(self) -> str:
        return f"Tokenizer({self.name!r}, vocab_size={self.vocab_size})"

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The ids of a text. Special tokens spelled out in it are parsed as such.

        Args:
          text: any text. One that `apply_chat_template` returned has its special tokens already.
          add_special_tokens: add what the model expects around a text (BOS, CLS and SEP, or nothing).
        Raises:
          InputError: the text holds a lone surrogate, which no UTF-8 and so no token can spell.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(f"the text is not valid Unicode: a lone surrogate at character {error.start}") from None
        return self._vocabulary.encode(text, add_special_tokens)

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of a list (or array) of ids. Nothing is tidied up: spaces stay where the model put them.

        Raises:
          InputError: an id is not in the vocabulary.
        """
        stream = self.stream(skip_special_tokens)
        ids = getattr(ids, "tolist", lambda: ids)()
        return "".join([*map(stream.push, ids), stream.finish()])

    def stream(self, skip_special_tokens: bool = True) -> TextStream:
        """Returns a detokenizer that takes ids one by one.

        Like `decode` it treats its first id as the start of a text, which loses its leading space in a sentencepiece
        vocabulary. To continue a prompt with its spaces, push the prompt's ids first and drop what they return.
        """
        skipped = self._vocabulary.special_ids if skip_special_tokens else ()
        return TextStream(lambda token_id, first: self._piece(token_id, first, skipped), self._vocabulary.errors)

    def _piece(self, token_id: int, first: bool, skipped: Collection[int]) -> bytes | None:
        token_id = operator.index(token_id)  # of an array too, say
        if token_id in skipped:
            return None
        piece = None
        if 0 <= token_id < self.vocab_size:
            piece = self._vocabulary.piece(token_id, first)
        if piece is None:
            raise InputError(f"token id {token_id} is not in the vocabulary of {self.name}: 0 to {self.vocab_size - 1}")
        return piece

    @property
    def eos_token_id(self) -> int | None:
        """The first of `eos_token_ids`: what ends a text, rather than a turn of a conversation."""
        if self.eos_token_ids:
            return self.eos_token_ids[0]
        return None

    @property
    def chat_template(self) -> str | None:
        """The default template, in Jinja; None if there is none."""
        return self._templates.get("default")

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> str:
        """Renders a conversation as the text that the model was trained on.

        The text contains the special tokens: encode it without adding any.

        Args:
          messages: dicts of plain JSON data, as a rule {"role": "user", "content": "..."}.
          add_generation_prompt: end with the start of the assistant's answer.
          chat_template: the name of one of the model's templates, or a template.
          **kwargs: what else the template understands, such as `tools` (JSON schemas) or `documents`.
        Raises:
          InputError: there is no template, it refuses these messages, or it is broken or not safe to run.
        """
        template = self._choose_template(chat_template, kwargs.get("tools") is not None)
        variables = {"tools": None, "documents": None, **self.special_tokens, **kwargs}
        variables |= {"messages": messages, "add_generation_prompt": add_generation_prompt}
        return render_chat(template, variables, self.name)

    def _choose_template(self, wanted: str | None, with_tools: bool) -> str:
        if wanted is not None:
            return self._templates.get(wanted, wanted)
        template = (self._templates.get("tool_use") if with_tools else None) or self.chat_template
        if template is None:
            named = ""
            if self._templates:
                named = f" by default, only {', '.join(map(repr, sorted(self._templates)))}"
            raise InputError(f"{self.name} has no chat template{named}")
        return template


def _valid(*ids: int | None) -> tuple[int, ...]:
    """Removes values that stand for no token: None, and -1 in sentencepiece models."""
    return tuple(i for i in ids if i is not None and i >= 0)
