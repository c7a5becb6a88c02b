"""Byte-level BPE through tiktoken: GPT-2's vocab.json with merges.txt, and Llama 3's tokenizer.model from Meta."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import tiktoken

from jaxllm.errors import InputError
from jaxllm.text.added_tokens import AddedToken
from jaxllm.text.byte_level import BYTE_OF, CHARACTER_OF, GPT2, LLAMA3, to_bytes
from jaxllm.text.files import Settings, library_errors, read_object, read_text
from jaxllm.text.segments import SegmentedVocabulary
from jaxllm.text.tokenizer import Tokenizer

END_OF_TEXT = "<|endoftext|>"

# Longer runs of white space overflow the stack of tiktoken's regular expressions (between 300,000 and 1,000,000).
_LONGEST_RUN = 100_000
_RUN = re.compile(rf"\s{{1,{_LONGEST_RUN}}}")


class TiktokenVocabulary(SegmentedVocabulary):
    """Byte strings merged in the order of their ranks.

    Args:
      pattern: cuts a text into words.
      ranks: byte strings that merging may arrive at, in order of priority.
      ids: every token's id.
      own: added tokens that the format itself brings.
    """

    def __init__(
        self,
        name: str,
        pattern: str,
        ranks: Mapping[bytes, int],
        ids: Mapping[bytes, int],
        settings: Settings,
        own: tuple[AddedToken, ...] = (),
    ):
        with library_errors(name):
            self._encoding = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=dict(ranks), special_tokens={})
            self._id_of_rank = [ids[token] for token in sorted(ranks, key=ranks.__getitem__)]
        self._name = name
        self._ids = ids
        self._pieces = {token_id: token for token, token_id in ids.items()}
        super().__init__(max(self._pieces) + 1, own, settings)

    def encode_segment(self, text: str, at_start: bool) -> list[int]:
        """See `SegmentedVocabulary`."""
        with library_errors(self._name):
            return [self._id_of_rank[rank] for part in _parts(text) for rank in self._encoding.encode_ordinary(part)]

    def own_piece(self, token_id: int, first: bool) -> bytes | None:
        """See `SegmentedVocabulary`."""
        return self._pieces.get(token_id)

    def own_id(self, token: str) -> int | None:
        """See `SegmentedVocabulary`."""
        return self._ids.get(to_bytes(token))


def _parts(text: str) -> Iterator[str]:
    start = 0
    for run in _RUN.finditer(text) if len(text) > _LONGEST_RUN else ():
        if run.end() - run.start() == _LONGEST_RUN:
            yield text[start : run.end()]
            start = run.end()
    yield text[start:]


def load_gpt2(vocab: Path, merges: Path, settings: Settings) -> Tokenizer:
    """Reads vocab.json (token to id, bytes as GPT-2's characters) and merges.txt (pairs in order of priority).

    Raises:
      InputError: the files are not a byte-level vocabulary, do not fit each other, or belong to a kind of tokenizer
        that splits words in another way than GPT-2 and needs its tokenizer.json to say how.
    """
    kind = (settings.tokenizer_class or "GPT2Tokenizer").removesuffix("Fast")
    if kind not in ("GPT2Tokenizer", "CodeGenTokenizer") or settings.add_prefix_space:
        raise InputError(f"{vocab}: a {kind} needs its tokenizer.json; vocab.json alone is read as GPT-2's only")
    with library_errors(vocab):
        named = read_object(vocab)
        if not named or not all(type(token_id) is int and token_id >= 0 for token_id in named.values()):
            raise InputError("not a vocabulary: a JSON object of tokens and their ids")
        if missing := [byte for byte, character in CHARACTER_OF.items() if character not in named]:
            raise InputError(f"not a byte-level vocabulary: it has no token for byte 0x{missing[0]:02X}")
    ids = {to_bytes(token): token_id for token, token_id in named.items()}
    if END_OF_TEXT in named:
        own = (AddedToken(named[END_OF_TEXT], END_OF_TEXT),)
    else:
        own = ()
    vocabulary = TiktokenVocabulary(str(vocab), GPT2, _ranks(merges, ids), ids, settings, own)
    end = named.get(END_OF_TEXT)
    tokenizer = Tokenizer.from_settings(vocabulary, str(vocab), settings, end, end)
    vocabulary.surround(
        before=tokenizer.bos_token_id if settings.add_bos else None,
        after=tokenizer.eos_token_id if settings.add_eos else None,
    )
    return tokenizer


def _ranks(path: Path, ids: Mapping[bytes, int]) -> dict[bytes, int]:
    """The single bytes, then what each line of merges.txt makes of its pair."""
    ranks = {bytes([byte]): rank for rank, byte in enumerate(BYTE_OF.values())}
    with library_errors(path):
        for number, line in enumerate(read_text(path).split("\n"), start=1):
            line = line.removesuffix("\r")
            if not line or (number == 1 and line.startswith("#version")):
                continue
            pair = line.split(" ")
            if len(pair) != 2 or (merged := to_bytes("".join(pair))) not in ids:
                raise InputError(f"line {number} is not a pair whose merger is in vocab.json: {line[:80]!r}")
            ranks.setdefault(merged, len(ranks))
    return ranks


_LLAMA3_TOKENS = 128_000  # the special tokens follow, 256 of them
_LLAMA3_BEGIN = "<|begin_of_text|>"
_LLAMA3_ENDS = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")


def is_tiktoken(path: Path) -> bool:
    """Whether a tokenizer.model is a list of base64 tokens and ranks rather than a sentencepiece model."""
    with library_errors(path), path.open("rb") as file:
        return re.match(rb"[A-Za-z0-9+/]+=* \d+\r?\n", file.readline(4096)) is not None


def load_llama3(path: Path, settings: Settings) -> Tokenizer:
    """Reads Meta's tokenizer.model of Llama 3, which has a token in base64 and its rank on each line.

    BOS is added to every text.

    Raises:
      InputError: the file is broken, or another model's, whose pattern and special tokens it does not tell.
    """
    with library_errors(path):
        lines = [line.split() for line in path.read_bytes().splitlines() if line]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
        if len(lines) != _LLAMA3_TOKENS or sorted(ranks.values()) != list(range(_LLAMA3_TOKENS)):
            raise InputError(f"a tiktoken vocabulary of {len(ranks)} tokens, which is not Llama 3's")
    special = {token: _LLAMA3_TOKENS + place for place, token in enumerate(_llama3_special_tokens())}
    own = tuple(AddedToken(token_id, token) for token, token_id in special.items())
    vocabulary = TiktokenVocabulary(str(path), LLAMA3, ranks, ranks, settings, own)
    ends = [special[token] for token in _LLAMA3_ENDS]
    tokenizer = Tokenizer.from_settings(vocabulary, str(path), settings, special[_LLAMA3_BEGIN], *ends)
    vocabulary.surround(
        before=None if settings.add_bos is False else tokenizer.bos_token_id,
        after=tokenizer.eos_token_id if settings.add_eos else None,
    )
    return tokenizer


def _llama3_special_tokens() -> Iterator[str]:
    """The 256 special tokens in the order of their ids, named as of Llama 3.1; 3.0 had more of them reserved."""
    named = {
        0: _LLAMA3_BEGIN,
        1: "<|end_of_text|>",
        4: "<|finetune_right_pad_id|>",
        6: "<|start_header_id|>",
        7: "<|end_header_id|>",
        8: "<|eom_id|>",
        9: "<|eot_id|>",
        10: "<|python_tag|>",
    }
    reserved = (f"<|reserved_special_token_{number}|>" for number in range(256))
    yield from (named.get(place) or next(reserved) for place in range(256))
