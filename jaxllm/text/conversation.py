"""A conversation as token ids, which never re-encodes what the model has processed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from jaxllm.errors import InputError
from jaxllm.text.tokenizer import Tokenizer


class Conversation:
    """Turns of a user and a model, rendered by the tokenizer's chat template.

    The text of an answer may encode to other ids than those that were generated. A prompt therefore consists of the
    last prompt's ids, the generated ids as far as the template repeats them, and the encoded rest. If a template
    changes earlier turns, the whole conversation is encoded.
    """

    def __init__(self, tokenizer: Tokenizer, system: str | None = None):
        self.messages = [{"role": "system", "content": system}] if system else []
        self._tokenizer = tokenizer
        self._text = ""
        self._ids = []
        self._said = []

    def add_user(self, content: str) -> list[int]:
        """Adds a turn of the user; returns the ids of the conversation for the model to continue."""
        self.messages.append({"role": "user", "content": content})
        text = self._tokenizer.apply_chat_template(self.messages)
        self._ids = self._continued(text)
        self._text = text
        self._said = []
        return list(self._ids)

    def add_assistant(self, content: str, tokens: Sequence[int]) -> None:
        """Adds the model's turn: its text, and all generated tokens including the end token."""
        self.messages.append({"role": "assistant", "content": content})
        self._said = list(tokens)

    def _continued(self, text: str) -> list[int]:
        """Returns ids of a text: those of the last prompt and answer, and new ones for what follows."""
        anew = self._encode(text)
        if not self._ids or not text.startswith(self._text):
            return anew
        count, end = self._repeated(text)
        known = self._ids + self._said[:count]
        rest = text[end:]
        for before in ("", "\n"):  # after a line end, sentencepiece adds no space
            begun = self._encode(before)
            ids = self._encode(before + rest)
            continued = known + ids[len(begun) :]
            if ids[: len(begun)] == begun and self._decode(continued) == self._decode(anew):
                return continued
        return anew

    def _repeated(self, text: str) -> tuple[int, int]:
        """Returns how many generated tokens the text behind the last prompt repeats, and where they end."""
        stream = self._tokenizer.stream(skip_special_tokens=False)
        for token in self._ids:
            stream.push(token)
        so_far = self._text
        found = (0, len(self._text))
        with suppress(InputError):  # padding of the embedding
            for count, token in enumerate(self._said, 1):
                new = stream.push(token)
                so_far += new
                if not text.startswith(so_far):
                    break
                if new:  # otherwise within a character
                    found = count, len(so_far)
        return found

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)
