"""Tokens that are found in a text before the vocabulary proper sees it, such as <|endoftext|>."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_SPACE = re.compile(r"\s*")


@dataclass(frozen=True)
class AddedToken:
    """A token matched as a whole, swallowing white space before it (`lstrip`) or after it. Names as in `tokenizers`."""

    id: int
    content: str
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


class AddedTokens:
    """The added tokens of one vocabulary; of several that match at one place the longest wins."""

    def __init__(self, tokens: Iterable[AddedToken]):
        self.by_id = {token.id: token for token in tokens if token.content}
        self.special_ids = frozenset(token.id for token in self.by_id.values() if token.special)
        self._by_content = {token.content: token for token in self.by_id.values()}
        longest_first = sorted(self.by_id.values(), key=lambda token: -len(token.content))
        self._pattern = re.compile("|".join(map(_pattern, longest_first)) or "(?!)")

    def token_id(self, content: str) -> int | None:
        """The id of the token with this text, or None."""
        token = self._by_content.get(content)
        return token.id if token else None

    def split(self, text: str) -> Iterator[str | int]:
        """The text in order, as the ids of added tokens and the stretches between them."""
        start = 0
        for match in self._pattern.finditer(text):
            token = self._by_content[match[0]]
            before = text[start : match.start()]
            if before := before.rstrip() if token.lstrip else before:
                yield before
            yield token.id
            start = _end(_SPACE.match(text, match.end())) if token.rstrip else match.end()
        if start < len(text):
            yield text[start:]


def _pattern(token: AddedToken) -> str:
    content = re.escape(token.content)
    return rf"(?<!\w){content}(?!\w)" if token.single_word else content


def _end(match: re.Match[str] | None) -> int:
    assert match  # the pattern matches the empty string
    return match.end()
