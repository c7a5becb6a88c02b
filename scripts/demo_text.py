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


def train_tokenizer(text: str, size: int) -> Tokenizer:
    """A byte-level BPE tokenizer whose first id is the end of the text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[EOS], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


class Spellings:
    """The text as token ids, each word spelled at random as BPE-dropout (Provilkov et al., 2020) would.

    The dropout inside `tokenizers` cannot be seeded, so a pool of `count` spellings per word is drawn here, once.
    """

    def __init__(self, tokenizer: Tokenizer, text: str, dropout: float, count: int, seed: int):
        self.vocabulary = tokenizer.get_vocab()
        merges = json.loads(tokenizer.to_str())["model"]["merges"]
        self.ranks = {tuple(pair): rank for rank, pair in enumerate(merges)}
        words = [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
        index = {word: i for i, word in enumerate(dict.fromkeys(words))}
        self.occurrences = np.array([index[word] for word in words])
        self.count = count
        rng = random.Random(seed)
        self.pool = [self.spell(word, dropout, rng) for word in index for _ in range(count)]

    def spell(self, word: str, dropout: float, rng: random.Random) -> np.ndarray:
        """Token ids of a word, merged in order of rank, each merge left out with probability `dropout` at each turn."""
        parts = list(word)
        while len(parts) > 1:
            pairs = ((self.ranks.get(pair), i) for i, pair in enumerate(itertools.pairwise(parts)))
            kept = [(rank, i) for rank, i in pairs if rank is not None and rng.random() >= dropout]
            if not kept:
                break
            i = min(kept)[1]
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        return np.array([self.vocabulary[part] for part in parts])

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """The whole text once, after an end token."""
        choice = self.occurrences * self.count + rng.integers(self.count, size=len(self.occurrences))
        return np.concatenate([[EOS_ID], *(self.pool[i] for i in choice)])
