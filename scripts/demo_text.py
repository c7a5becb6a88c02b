"""The text of the demo model: its split, its tokenizer and its random spellings (see train_demo.py)."""

import itertools
import json
import random
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

EOS = "<|endoftext|>"
EOS_ID = 0


def split_text(path: Path) -> tuple[str, str]:
    """The training text and the held-out last tenth."""
    text = path.read_text(encoding="utf-8")
    cut = len(text) * 9 // 10
    return text[:cut], text[cut:]


def train_tokenizer(text: str, vocab_size: int) -> Tokenizer:
    """Trains a byte-level BPE tokenizer whose first id is the end of the text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[EOS], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


class BPEDropoutSampler:
    """The text as token ids, each word spelled at random as BPE-dropout (Provilkov et al., 2020) would.

    The dropout inside `tokenizers` cannot be seeded, so a pool of `count` spellings per word is drawn here, once.
    """

    def __init__(self, tokenizer: Tokenizer, text: str, dropout: float, variants_per_word: int, seed: int):
        self.vocab = tokenizer.get_vocab()
        merges = json.loads(tokenizer.to_str())["model"]["merges"]
        self.merge_ranks = {tuple(pair): rank for rank, pair in enumerate(merges)}
        words = [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
        index = {word: i for i, word in enumerate(dict.fromkeys(words))}
        self.word_ids = np.array([index[word] for word in words])
        self.variants_per_word = variants_per_word
        rng = random.Random(seed)
        self.variants = [self.encode_word(word, dropout, rng) for word in index for _ in range(variants_per_word)]

    def encode_word(self, word: str, dropout: float, rng: random.Random) -> np.ndarray:
        """Returns token ids of a word by BPE-dropout: each merge is left out with probability `dropout`."""
        symbols = list(word)
        while len(symbols) > 1:
            pairs = ((self.merge_ranks.get(pair), i) for i, pair in enumerate(itertools.pairwise(symbols)))
            candidates = [(rank, i) for rank, i in pairs if rank is not None and rng.random() >= dropout]
            if not candidates:
                break
            i = min(candidates)[1]
            symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
        return np.array([self.vocab[part] for part in symbols])

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """The whole text once, after an end token."""
        choice = self.word_ids * self.variants_per_word + rng.integers(self.variants_per_word, size=len(self.word_ids))
        return np.concatenate([[EOS_ID], *(self.variants[i] for i in choice)])
