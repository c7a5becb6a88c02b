"""tokenizer.json, through the `tokenizers` library. Decoding is ours, so that it can go token by token."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, processors

from jaxllm.errors import InputError
from jaxllm.text.decoders import decoder_of
from jaxllm.text.files import Settings, library_errors, read_text


class HuggingFaceVocabulary:
    """Ids of the `tokenizers` library; its post-processor adds the special tokens."""

    def __init__(self, tokenizer: Tokenizer, name: str):
        with library_errors(name):
            tokenizer.no_truncation()
            tokenizer.no_padding()
            decoder = tokenizer.decoder
            spec = json.loads(decoder.__getstate__()) if decoder else None
            self._to_bytes, self.errors = decoder_of(spec)
            self.size = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
            if not self.size:
                raise InputError("the vocabulary is empty")
        added = tokenizer.get_added_tokens_decoder()
        self.special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self._tokenizer, self._name = tokenizer, name

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        with library_errors(self._name):
            return self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def piece(self, token_id: int, first: bool) -> bytes | None:
        token = self._tokenizer.id_to_token(token_id)
        return None if token is None else self._to_bytes(token, first)

    def token_id(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)


def load_tokenizer_json(path: Path, settings: Settings) -> HuggingFaceVocabulary:
    """Read tokenizer.json and what tokenizer_config.json changes in it, as Transformers 5 does.

    Raises:
        InputError: the file is not a tokenizer, or its decoder is of a kind that is not supported.
    """
    with library_errors(path):
        tokenizer = Tokenizer.from_str(read_text(path))
        _add_tokens(tokenizer, settings)
        if settings.add_bos is not None or settings.add_eos is not None:
            bos = [settings.special_tokens.get("bos_token")] if settings.add_bos else []
            eos = [settings.special_tokens.get("eos_token")] if settings.add_eos else []
            set_template(tokenizer, filter(None, bos), filter(None, eos))
        return HuggingFaceVocabulary(tokenizer, str(path))


def _add_tokens(tokenizer: Tokenizer, settings: Settings) -> None:
    """Tokens of the config that the file does not list as added, special ones foremost. None gets an id of its own."""
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    tokens = [
        AddedToken(
            token.content,
            single_word=token.single_word,
            lstrip=token.lstrip,
            rstrip=token.rstrip,
            normalized=token.normalized,
            special=token.special,
        )
        for token in sorted(settings.added_tokens, key=lambda token: token.id)
    ]
    named = [AddedToken(token, special=True, normalized=False) for token in settings.special_tokens.values()]
    for token in tokens + named:
        if token.content not in known:
            known.add(token.content)
            tokenizer.add_tokens([token])


def set_template(tokenizer: Tokenizer, before: Iterable[str], after: Iterable[str]) -> None:
    """Put these special tokens around every text."""
    before, after = list(before), list(after)
    ids = {token: tokenizer.token_to_id(token) for token in before + after}
    if missing := [token for token, token_id in ids.items() if token_id is None]:
        raise InputError(f"the special token {missing[0]!r} is not in the vocabulary")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after],
        special_tokens=list(ids.items()),
    )
