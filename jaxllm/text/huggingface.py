"""Vocabularies of tokenizer.json, through the `tokenizers` library. Our own code decodes, token by token."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers import processors

from jaxllm.errors import InputError
from jaxllm.text.added_tokens import AddedToken
from jaxllm.text.decoders import decoder_of
from jaxllm.text.files import Settings, library_errors, read_text
from jaxllm.text.tokenizer import Tokenizer


class HuggingFaceVocabulary:
    """Encodes with the `tokenizers` library, whose post-processor adds the special tokens."""

    def __init__(self, tokenizer: LibraryTokenizer, name: str):
        with library_errors(name):
            tokenizer.no_truncation()
            tokenizer.no_padding()
            decoder = tokenizer.decoder
            spec = None
            if decoder:
                spec = json.loads(decoder.__getstate__())
            self._to_bytes, self.errors = decoder_of(spec)
            self.size = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
            if not self.size:
                raise InputError("the vocabulary is empty")
        added = tokenizer.get_added_tokens_decoder()
        self.special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self._tokenizer = tokenizer
        self._name = name

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """See `Vocabulary`."""
        with library_errors(self._name):
            return self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def piece(self, token_id: int, first: bool) -> bytes | None:
        """See `Vocabulary`."""
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return None
        return self._to_bytes(token, first)

    def token_id(self, token: str) -> int | None:
        """See `Vocabulary`."""
        return self._tokenizer.token_to_id(token)


def load_tokenizer_json(path: Path, settings: Settings) -> Tokenizer:
    """Reads tokenizer.json, with the tokens that tokenizer_config.json adds.

    As in Transformers 5, only its post-processor decides what is added around a text; `add_bos_token` has no effect.

    Raises:
      InputError: the file is not a tokenizer, or its decoder is not supported.
    """
    with library_errors(path):
        tokenizer = LibraryTokenizer.from_str(read_text(path))
        _add_tokens(tokenizer, settings)
    return Tokenizer.from_settings(HuggingFaceVocabulary(tokenizer, str(path)), str(path), settings)


def _add_tokens(tokenizer: LibraryTokenizer, settings: Settings) -> None:
    """Adds the config's tokens that the file lacks; an id must exist or be the next one."""
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    named = [AddedToken(-1, token) for token in settings.special_tokens.values()]
    for token in [*sorted(settings.added_tokens, key=lambda token: token.id), *named]:
        there = tokenizer.token_to_id(token.content) is not None
        if token.content not in known and (there or token.id == tokenizer.get_vocab_size()):
            known.add(token.content)
            flags = {key: value for key, value in vars(token).items() if key not in ("id", "content")}
            tokenizer.add_tokens([tokenizers.AddedToken(token.content, **flags)])


def set_template(tokenizer: LibraryTokenizer, before: str | None, after: str | None) -> None:
    """Puts these special tokens around every text."""
    ids = {token: tokenizer.token_to_id(token) for token in (before, after) if token}
    if missing := [token for token, token_id in ids.items() if token_id is None]:
        raise InputError(f"the special token {missing[0]!r} is not in the vocabulary")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[token for token in (before, "$A", after) if token], special_tokens=list(ids.items())
    )
