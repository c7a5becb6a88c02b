"""The vocabulary of a GGUF file, by llama.cpp's rules.

Byte-level BPE and WordPiece use the `tokenizers` library, sentencepiece's BPE uses sentencepiece.
"""

from __future__ import annotations

from pathlib import Path

from gguf import TokenType
from sentencepiece.sentencepiece_model_pb2 import ModelProto  # pyright: ignore[reportAttributeAccessIssue]
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as LibraryTokenizer

from jaxllm.errors import InputError
from jaxllm.text.byte_level import PRE_TOKENIZERS
from jaxllm.text.files import library_errors
from jaxllm.text.gguf_metadata import SPECIAL, Metadata
from jaxllm.text.huggingface import HuggingFaceVocabulary, set_template
from jaxllm.text.sentencepiece_model import SPACE, SentencePieceVocabulary
from jaxllm.text.tokenizer import Tokenizer


def load_gguf(path: Path) -> Tokenizer:
    """Reads the vocabulary, special tokens and chat template of a GGUF file.

    Raises:
      InputError: the file is broken, or its type of vocabulary is not supported.
    """
    metadata = Metadata(path)
    build = _BUILDERS.get(metadata.model)
    if build is None:
        kinds = ", ".join(_BUILDERS)
        raise InputError(f"{path}: its vocabulary is of kind {metadata.model!r}; supported are {kinds}")
    with library_errors(path):
        return build(metadata, str(path))


def _sentencepiece(metadata: Metadata, name: str) -> Tokenizer:
    settings = metadata.settings()
    spaced = metadata.get("add_space_prefix", bool, True)
    model = _model_proto(metadata, spaced).SerializeToString()
    vocabulary = SentencePieceVocabulary(model, name, settings, "always" if spaced else "never")
    tokenizer = Tokenizer.from_settings(vocabulary, name, settings, 1, 2)
    vocabulary.surround(
        before=tokenizer.bos_token_id if metadata.get("add_bos_token", bool, True) else None,
        after=tokenizer.eos_token_id if metadata.get("add_eos_token", bool, False) else None,
    )
    return tokenizer


def _model_proto(metadata: Metadata, spaced: bool) -> ModelProto:
    """Returns the sentencepiece model from which the vocabulary was made."""
    scores = metadata.array("scores", float)
    if len(scores) != len(metadata.tokens):
        raise InputError("its vocabulary has no scores")
    unknown = metadata.get("unknown_token_id", int, 0)
    proto = ModelProto()
    for token_id, (token, score, kind) in enumerate(zip(metadata.tokens, scores, metadata.types, strict=True)):
        if token_id == unknown:
            kind = TokenType.UNKNOWN
        elif kind == TokenType.UNKNOWN:  # sentencepiece knows one; llama.cpp's converter also fills gaps with them
            kind = TokenType.CONTROL
        proto.pieces.add(piece=token, score=score, type=kind)
    proto.trainer_spec.model_type = proto.trainer_spec.BPE
    proto.trainer_spec.byte_fallback = TokenType.BYTE in metadata.types
    proto.trainer_spec.unk_id = unknown
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = spaced
    proto.normalizer_spec.remove_extra_whitespaces = metadata.get("remove_extra_whitespaces", bool, False)
    return proto


def _byte_level(metadata: Metadata, name: str) -> Tokenizer:
    # Files without the key are older: GPT-2, GPT-NeoX and similar.
    rule = PRE_TOKENIZERS.get(pre := metadata.get("pre", str, "gpt-2"))
    if rule is None:
        raise InputError(f"its pre-tokenizer {pre!r} is not supported")
    cut = (_cut_merge(merge) for merge in metadata.array("merges", str))
    model = models.BPE(_ids(metadata.tokens), list(cut), ignore_merges=rule.ignore_merges)
    tokenizer = LibraryTokenizer(model)
    words = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in rule.patterns]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*words, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    bos = None
    if metadata.get("add_bos_token", bool, rule.add_bos):
        bos = metadata.token_of("bos")
    eos = None
    if metadata.get("add_eos_token", bool, False):
        eos = metadata.token_of("eos")
    return _through_library(tokenizer, metadata, name, bos, eos)


def _cut_merge(merge: str) -> tuple[str, str]:
    """Splits a merge at a space; its first half has at least one character."""
    at = merge.find(" ", 1)
    if at < 0:
        raise InputError(f"its merge {merge[:80]!r} is not a pair")
    return merge[:at], merge[at + 1 :]


def _word_piece(metadata: Metadata, name: str) -> Tokenizer:
    kinds = zip(metadata.tokens, metadata.types, strict=True)
    tokens = [token if kind in SPECIAL else _word_piece_token(token) for token, kind in kinds]
    unknown = metadata.token_of("unknown", 100) or "[UNK]"
    tokenizer = LibraryTokenizer(models.WordPiece(_ids(tokens), unk_token=unknown, max_input_chars_per_word=100))
    lowercase = metadata.get("normalizer.lowercase", bool, True)
    strip_accents = metadata.get("normalizer.strip_accents", bool, lowercase)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    cls = None
    if metadata.get("add_bos_token", bool, True):
        cls = metadata.token_of("cls", 101)
    sep = None
    if metadata.get("add_sep_token", bool, True):
        sep = metadata.token_of("seperator", 102)
    return _through_library(tokenizer, metadata, name, cls, sep)


def _word_piece_token(token: str) -> str:
    """Converts a token: GGUF marks the beginnings of words, WordPiece their continuations; neither marks [unused1]."""
    if token.startswith(SPACE) or (token.startswith("[") and token.endswith("]")):
        return token.removeprefix(SPACE)
    return f"##{token}"


def _ids(tokens: list[str]) -> dict[str, int]:
    return {token: token_id for token_id, token in enumerate(tokens)}


def _through_library(
    tokenizer: LibraryTokenizer, metadata: Metadata, name: str, before: str | None, after: str | None
) -> Tokenizer:
    defined = metadata.of_type(TokenType.USER_DEFINED)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in metadata.of_type(*SPECIAL)])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in defined])
    set_template(tokenizer, before, after)
    return Tokenizer.from_settings(HuggingFaceVocabulary(tokenizer, name), name, metadata.settings())


_BUILDERS = {"llama": _sentencepiece, "gpt2": _byte_level, "bert": _word_piece}
