"""The part that sentencepiece and tiktoken share: added tokens split a text into segments; BOS and EOS surround it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from jaxllm.text.added_tokens import AddedToken, AddedTokens
from jaxllm.text.files import Settings


class SegmentedVocabulary(ABC):
    """A vocabulary that knows nothing of added tokens, and the tokens added to it.

    Args:
      size: of the vocabulary alone.
      own: tokens of the vocabulary that are to be found in texts as added tokens are.
      settings: adds tokens, and names some of the vocabulary's as special.
    """

    errors = "replace"

    def __init__(self, size: int, own: Iterable[AddedToken], settings: Settings):
        ids = {token: self.own_id(token) for token in settings.special_tokens.values()}
        named = [AddedToken(token_id, token) for token, token_id in ids.items() if token_id is not None]
        self._added = AddedTokens([*own, *named, *settings.added_tokens])
        self.size = max([size, *(token_id + 1 for token_id in self._added.by_id)])
        self.special_ids = self._added.special_ids
        self._before: tuple[int, ...] = ()
        self._after: tuple[int, ...] = ()

    def surround(self, before: int | None = None, after: int | None = None) -> None:
        """Sets the tokens that `encode` adds before and after a text."""
        self._before = () if before is None else (before,)
        self._after = () if after is None else (after,)

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """See `Vocabulary`."""
        ids: list[int] = []
        for place, part in enumerate(self._added.split(text)):
            ids += [part] if isinstance(part, int) else self.encode_segment(part, place == 0)
        if add_special_tokens:
            return [*self._before, *ids, *self._after]
        return ids

    def piece(self, token_id: int, first: bool) -> bytes | None:
        """See `Vocabulary`."""
        token = self._added.by_id.get(token_id)
        if token:
            return token.content.encode("utf-8")
        return self.own_piece(token_id, first)

    def token_id(self, token: str) -> int | None:
        """See `Vocabulary`."""
        added = self._added.token_id(token)
        if added is None:
            return self.own_id(token)
        return added

    @abstractmethod
    def encode_segment(self, text: str, at_start: bool) -> list[int]:
        """Ids of a stretch without added tokens, `at_start` of the whole text or not."""

    @abstractmethod
    def own_piece(self, token_id: int, first: bool) -> bytes | None:
        """As `Vocabulary.piece`, for what is not an added token."""

    @abstractmethod
    def own_id(self, token: str) -> int | None:
        """As `Vocabulary.token_id`, likewise."""
