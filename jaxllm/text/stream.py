"""Decodes token ids to text, one id at a time."""

from __future__ import annotations

import codecs
from collections.abc import Callable


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    """Replaces each byte that is not UTF-8 by U+FFFD, as sentencepiece does; Python has one per broken character."""
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd" * (error.end - error.start), error.end


REPLACE_EACH_BYTE = "jaxllm.replace_each_byte"
codecs.register_error(REPLACE_EACH_BYTE, _replace_each_byte)


class TextStream:
    """Text from tokens as they come, at a cost linear in their number.

    What `push` and the last `finish` return joins to exactly what `Tokenizer.decode` gives for all the ids. A character
    (a Unicode code point) whose bytes span several tokens is held back until it is whole, or until `finish`.

    Args:
      piece: bytes of a token, given its id and whether it is the first of its text; None for a token to skip.
      errors: how bytes that are not UTF-8 become text, as in `bytes.decode`.
    """

    def __init__(self, piece: Callable[[int, bool], bytes | None], errors: str = "replace"):
        self._piece = piece
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors)
        self._first = True

    def push(self, token_id: int) -> str:
        """The text that this token completes: "" for a skipped token or an unfinished character."""
        piece = self._piece(token_id, self._first)
        if piece is None:
            return ""
        self._first = False
        return self._utf8.decode(piece)

    def finish(self) -> str:
        """Returns the text that was held back, an unfinished character as U+FFFD, and resets the stream."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        self._first = True
        return rest
