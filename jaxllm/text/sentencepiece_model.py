"""Vocabularies of tokenizer.model, through the sentencepiece library."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

from sentencepiece import SentencePieceProcessor
from sentencepiece.sentencepiece_model_pb2 import ModelProto  # pyright: ignore[reportAttributeAccessIssue]

from jaxllm.errors import InputError
from jaxllm.text.added_tokens import AddedToken
from jaxllm.text.files import Settings, library_errors
from jaxllm.text.segments import SegmentedVocabulary
from jaxllm.text.stream import REPLACE_EACH_BYTE
from jaxllm.text.tokenizer import Tokenizer

SPACE = "\u2581"
Prefix = Literal["always", "first", "never"]


class SentencePieceVocabulary(SegmentedVocabulary):
    """A sentencepiece model. Its control symbols and its unknown token are found in texts as added tokens are.

    `prefix` tells which segments of a text get the dummy space that the model was trained with in front: Transformers
    gives it to the first only; llama.cpp, and Transformers for tokenizers it calls legacy, to every one.
    """

    errors = REPLACE_EACH_BYTE

    def __init__(self, model: bytes, name: str, settings: Settings, prefix: Prefix):
        with library_errors(name):
            proto = ModelProto.FromString(model)
            if not proto.pieces:
                raise InputError("not a sentencepiece model")
            self._processor = processor = SentencePieceProcessor(model_proto=model)
        self.bos_id = proto.trainer_spec.bos_id
        self.eos_id = proto.trainer_spec.eos_id
        self._strips_space = proto.normalizer_spec.add_dummy_prefix or proto.normalizer_spec.remove_extra_whitespaces
        self._model = model
        self._name = name
        self._prefix = prefix
        self._own_size = processor.vocab_size()
        control = [i for i in range(self._own_size) if processor.is_control(i) or processor.is_unknown(i)]
        super().__init__(self._own_size, [AddedToken(i, processor.id_to_piece(i)) for i in control], settings)

    def encode_segment(self, text: str, at_start: bool) -> list[int]:
        """See `SegmentedVocabulary`."""
        prefixed = self._prefix == "always" or (self._prefix == "first" and at_start)
        with library_errors(self._name):
            return (self._processor if prefixed else self._without_prefix).encode(text)

    @functools.cached_property
    def _without_prefix(self) -> SentencePieceProcessor:
        """The library settles the dummy space for a whole processor, so that segments without it need another."""
        proto = ModelProto.FromString(self._model)
        proto.normalizer_spec.add_dummy_prefix = False
        return SentencePieceProcessor(model_proto=proto.SerializeToString())

    def own_piece(self, token_id: int, first: bool) -> bytes | None:
        """See `SegmentedVocabulary`."""
        if token_id >= self._own_size:
            return None
        piece = self._processor.id_to_piece(token_id)
        if self._processor.is_byte(token_id):
            return bytes.fromhex(piece[3:5])  # <0x0A>
        if first and self._strips_space and self._prefix != "never":
            piece = piece.removeprefix(SPACE)
        return piece.replace(SPACE, " ").encode("utf-8")

    def own_id(self, token: str) -> int | None:
        """See `SegmentedVocabulary`."""
        token_id = self._processor.piece_to_id(token)  # the unknown token's where there is none
        if self._processor.id_to_piece(token_id) == token:
            return token_id
        return None


def load_sentencepiece(path: Path, settings: Settings) -> Tokenizer:
    """Reads a sentencepiece model.

    By default BOS is added and EOS is not; tokenizer_config.json may say otherwise.

    Raises:
      InputError: the file is not such a model.
    """
    with library_errors(path):
        model = path.read_bytes()
    prefix = "never" if settings.add_prefix_space is False else "always" if settings.legacy else "first"
    vocabulary = SentencePieceVocabulary(model, str(path), settings, prefix)
    tokenizer = Tokenizer.from_settings(vocabulary, str(path), settings, vocabulary.bos_id, vocabulary.eos_id)
    vocabulary.surround(
        before=None if settings.add_bos is False else tokenizer.bos_token_id,
        after=tokenizer.eos_token_id if settings.add_eos else None,
    )
    return tokenizer
