"""Needles in haystacks: prompts of exactly so many tokens with a fact at some depth, and whether a model finds it."""

import random
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.cache import Cache
from jaxllm.cache.quantized_kv import DTYPES
from jaxllm.errors import InputError
from jaxllm.generation.decode import new_cache, prefill_chunk
from jaxllm.generation.tokens import PREFILL_CHUNK, generate_tokens
from jaxllm.models.decoder import Decoder
from jaxllm.sharding import mesh_of
from jaxllm.text import Tokenizer

HAYSTACK_PLACEHOLDER = "{haystack}"  # stands for it where a chat template is filled in
SENTENCE_ENDS = (".", "!", "?", "\n")


class Needle(NamedTuple):
    """The fact to hide, what is asked about it, how the reply begins, and how it goes on if the fact was found."""

    fact: str = "The best thing to do in Verona is to eat a fig and sit by the fountain on a sunny day."
    question: str = "What is the best thing to do in Verona?"
    answer_prefix: str = "The best thing to do in Verona is to"
    answer: str = " eat a fig and sit by the fountain on a sunny day"

    @property
    def keywords(self) -> list[str]:
        """The words of the answer that tell: those of four letters or more, or all if there is none."""
        words = re.findall(r"\w+", self.answer.lower())
        return [word for word in words if len(word) > 3] or words


@dataclass(frozen=True)
class Haystack:
    """Token ids: of the text to hide in, with the places where its sentences end, and of what stands around it.

    A prompt is `before`, hay with the `hidden` needle in it, and `after`; `answer` is what should follow.
    """

    text_tokens: list[int]
    sentence_ends: np.ndarray
    prefix: list[int]
    needle_tokens: list[int]
    suffix: list[int]
    answer_tokens: list[int]

    @classmethod
    def from_text(cls, tokenizer: Tokenizer, text: str, needle: Needle, max_length: int, chat: bool) -> "Haystack":
        """Creates a haystack for prompts of up to `max_length` tokens. With `chat` a prompt is a user's turn."""
        tokens = repeat_text(tokenizer, text, max_length)
        ending = [i for i in set(tokens) if tokenizer.decode([i]).rstrip(" ").endswith(SENTENCE_ENDS)]
        ends = np.flatnonzero(np.isin(tokens, ending)) + 1
        hidden = tokenizer.encode(f"\n{needle.fact}\n", add_special_tokens=False)
        return cls(tokens, ends, *_encode_surroundings(tokenizer, needle, hidden, chat))

    @property
    def min_length(self) -> int:
        """The length of a prompt without any hay."""
        return len(self.prefix + self.needle_tokens + self.suffix)

    def prompt(self, length: int, depth: float) -> list[int]:
        """Returns a prompt of exactly `length` tokens, with the needle behind a share `depth` of the hay.

        The needle follows the last end of a sentence within that share.

        Raises:
          InputError: the needle and its question alone are longer.
        """
        if length < self.min_length:
            raise InputError(f"{length} tokens: the needle and its question alone are {self.min_length}")
        text_length = length - self.min_length
        ended = self.sentence_ends[self.sentence_ends <= depth * text_length]
        position = text_length if depth == 1 else int(ended.max(initial=0))
        return [
            *self.prefix,
            *self.text_tokens[:position],
            *self.needle_tokens,
            *self.text_tokens[position:text_length],
            *self.suffix,
        ]

    def prompt_without_needle(self, length: int) -> list[int]:
        """Returns a prompt of `length` tokens without the needle: hay and the question."""
        return [*self.prefix, *self.text_tokens[: length - len(self.prefix + self.suffix)], *self.suffix]


def repeat_text(tokenizer: Tokenizer, text: str, count: int) -> list[int]:
    """Returns the first tokens of a text, followed by its paragraphs in other random orders until there are enough.

    Raises:
      InputError: there is nothing in the text.
    """
    paragraphs = re.split(r"\n\s*\n", text.strip())
    shuffled = random.Random(0)
    tokens = []
    if not text.strip():
        raise InputError("the haystack is empty")
    while len(tokens) < count:
        tokens += tokenizer.encode("\n\n".join(paragraphs) + "\n\n", add_special_tokens=False)
        shuffled.shuffle(paragraphs)
    return tokens[:count]


def _encode_surroundings(
    tokenizer: Tokenizer, needle: Needle, needle_tokens: list[int], chat: bool
) -> tuple[list[int], ...]:
    """Returns `before`, `needle_tokens`, `after` and `answer` of a haystack.

    The answer begins with the first token that would be another one without it: a space between may belong to either.
    """
    before = ""
    after = f"\n\n{needle.question} "
    start = tokenizer.encode("")[:1]
    if chat:
        turn = {"role": "user", "content": f"{HAYSTACK_PLACEHOLDER}\n\n{needle.question}"}
        before, _, after = tokenizer.apply_chat_template([turn]).partition(HAYSTACK_PLACEHOLDER)
    opening = [i for i in start if i == tokenizer.bos_token_id and not chat]
    texts = before, after + needle.answer_prefix, after + needle.answer_prefix + needle.answer
    head, tail, whole = (tokenizer.encode(text, add_special_tokens=False) for text in texts)
    same = next((i for i, (one, other) in enumerate(zip(tail, whole, strict=False)) if one != other), len(tail))
    return opening + head, needle_tokens, whole[:same], whole[same:]


class NeedleScore(NamedTuple):
    """How well a needle was found, and what that is the measure of."""

    score: float
    detail: str


@dataclass(frozen=True)
class NeedleEvaluator:
    """A model that is asked for a needle; `cache_dtype` and `prefill_chunk_size` are those of generation."""

    model: Decoder
    tokenizer: Tokenizer
    needle: Needle
    haystack: Haystack
    max_new_tokens: int
    prefill_chunk_size: int = PREFILL_CHUNK
    cache_dtype: str | None = None
    baselines: dict[int, float] = field(default_factory=dict)  # without a needle, by the prompt's length

    def recall(self, prompt: list[int]) -> NeedleScore:
        """The share of the answer's keywords that are in what the model says."""
        how: dict[str, Any] = {"prefill_chunk_size": self.prefill_chunk_size, "cache_dtype": self.cache_dtype}
        (ids,) = generate_tokens(self.model, [prompt], max_new_tokens=self.max_new_tokens, **how)
        said = self.tokenizer.decode(ids)
        words = set(re.findall(r"\w+", said.lower()))
        return NeedleScore(float(np.mean([word in words for word in self.needle.keywords])), said)

    def accuracy(self, prompt: list[int]) -> NeedleScore:
        """The share of the answer's tokens that are the likeliest, each after all those before it."""
        logprobs, hits = self._score_answer(prompt)
        return NeedleScore(hits, f"{logprobs:.3f} nats a token")

    def gain(self, prompt: list[int]) -> NeedleScore:
        """Returns by how much the needle raises the mean log-probability of the answer's tokens, in nats."""
        found = self._score_answer(prompt)[0]
        length = len(prompt)
        if length not in self.baselines:
            self.baselines[length] = self._score_answer(self.haystack.prompt_without_needle(length))[0]
        blind = self.baselines[length]
        return NeedleScore(found - blind, f"{found:.3f} nats a token, {blind:.3f} without the needle")

    def _score_answer(self, prompt: list[int]) -> tuple[float, float]:
        """The mean log-probability of the answer's tokens, and the share of them that are the likeliest.

        Prompts of all lengths take the same programs: each is padded to whole chunks, in a cache for the longest.
        """
        mesh = mesh_of(self.model)
        longest = len(self.haystack.text_tokens)
        chunk = min(self.prefill_chunk_size, longest)
        capacity = -(-longest // chunk) * chunk + len(self.haystack.answer_tokens)
        tokens = np.zeros((1, -(-len(prompt) // chunk) * chunk), np.int32)
        lengths = np.array([len(prompt)], np.int32)
        tokens[0, : len(prompt)] = prompt
        answer = np.array([self.haystack.answer_tokens], np.int32)
        with nullcontext() if mesh is None else jax.set_mesh(mesh):
            cache = new_cache(self.model, 1, capacity, DTYPES.get(self.cache_dtype or ""))
            last = None
            for start in range(0, tokens.size, chunk):
                cache, last = prefill_chunk(self.model, cache, last, tokens[:, start : start + chunk], lengths)
            logprobs, hits = score_answer(self.model, cache, last, answer)
        return float(logprobs.mean()), float(hits.mean())


SCORES: dict[str, Callable[[NeedleEvaluator, list[int]], NeedleScore]] = {
    "recall": NeedleEvaluator.recall,
    "accuracy": NeedleEvaluator.accuracy,
    "gain": NeedleEvaluator.gain,
}


@jax.jit
def score_answer(
    model: Decoder, cache: Cache, last_hidden: jax.Array, answer: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns log-probabilities [1 A] of the next tokens [1 A], and whether each is the likeliest, [1 A].

    `last_hidden` [1 1 D] is the hidden state of the last token of the prompt.
    """
    states, _ = model.hidden(answer, cache=cache)
    logits = model.logits(jnp.concatenate([last_hidden, states[:, :-1]], axis=1))
    logprobs = jnp.take_along_axis(jax.nn.log_softmax(logits), answer[..., None], axis=-1)[..., 0]
    return logprobs, logits.argmax(axis=-1) == answer
