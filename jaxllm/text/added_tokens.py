"""Added tokens, such as <|endoftext|>, which are found in a text before the vocabulary is applied."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_SPACE = re.compile(r"\s*")


@dataclass(frozen=True)
class AddedToken:
    """A token that is matched as a whole. Its attributes are those of `tokenizers.AddedToken`.

    `lstrip` includes white space before the token, `rstrip` white space after it.
    """

    id: int
    content: str
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


class AddedTokens:
    """The added tokens of a vocabulary. The longest one that matches at a position wins."""

    def __init__(self, tokens: Iterable[AddedToken]):
        self.by_id = {token.id: token for token in tokens if token.content}
        self.special_ids = frozenset(token.id for token in self.by_id.values() if token.special)
        self._by_content = {token.content: token for token in self.by_id.values()}
        longest_first = sorted(self.by_id.values(), key=lambda token: -len(token.content))
        self._pattern = re.compile("|".join(map(_pattern, longest_first)) or "(?!)")

    def token_id(self, content: str) -> int | None:
        """Returns the id of the token with this text, or None."""
        token = self._by_content.get(content)
        if token:
            return token.id
        return None

    def split(self, text: str) -> Iterator[str | int]:
        """Splits a text into the ids of added tokens and the texts between them."""
        start = 0
        for match in self._pattern.finditer(text):
            token = self._by_content[match[0]]
            before = text[start : match.start()]
            if before := before.rstrip() if token.lstrip else before:
                yield before
            yield token.id
            if token.rstrip:
                start = _end(_SPACE.match(text, match.end()))
            else:
                start = match.end()
        if start < len(text):
            yield text[start:]


def _pattern(token: AddedToken) -> str:
    content = re.escape(token.content)
    if token.single_word:
        return rf"(?<!\w){content}(?!\w)"
    return content


def _end(match: re.Match[str] | None) -> int:
    assert match  # the pattern matches the empty string
    return match.end()
