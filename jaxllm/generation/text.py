"""Generation on text: prompts in, text out, whole or as it comes."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Unpack, overload

from jaxllm.checks import whole_number
from jaxllm.errors import InputError
from jaxllm.generation.tokens import Options, eos_token_ids, steps
from jaxllm.models.decoder import Decoder
from jaxllm.text import Tokenizer

Stop = str | Sequence[str] | None


@dataclass(frozen=True)
class Piece:
    """The next bit of a streamed text: what one token adds to it, possibly nothing yet.

    Log-probabilities are natural and the model's own, before sampling settings; times are in seconds since the call,
    `prompt_seconds` up to the first token. `finish_reason` is None, or on the last piece "stop" or "length".
    """

    text: str
    token: int
    logprob: float
    prompt_tokens: int
    generated_tokens: int
    prompt_seconds: float
    seconds: float
    finish_reason: str | None = None

    @property
    def tokens_per_second(self) -> float:
        """The rate of decoding, the prompt and the first token left out."""
        return (self.generated_tokens - 1) / max(self.seconds - self.prompt_seconds, 1e-9)


def stream_generate(
    model: Decoder,
    tokenizer: Tokenizer | None,
    prompt: str | Sequence[int],
    *,
    stop: Stop = None,
    **options: Unpack[Options],
) -> Iterator[Piece]:
    """Continues one prompt (text, or its token ids), yielding a `Piece` per token; the rest is as in `generate`."""
    began, tokenizer = time.perf_counter(), _needed(tokenizer)
    ids = tokenizer.encode(prompt) if isinstance(prompt, str) else _ids(prompt)
    row, first = _Row(tokenizer, ids, _stops(stop)), 0.0
    for count, step in enumerate(steps(model, [ids], **options), 1):
        now = time.perf_counter() - began
        token, first, reason = int(step.token[0]), first or now, None
        text = row.push(token)
        if row.stopped or step.last[0]:
            text += row.finish()
            ended = row.stopped or token in eos_token_ids(model, options.get("eos_token_id"))
            reason = "stop" if ended else "length"
        yield Piece(text, token, float(step.logprob[0]), len(ids), count, first, now, reason)
        if reason:
            break


@overload
def generate(
    model: Decoder, tokenizer: Tokenizer | None, prompts: str, *, stop: Stop = None, **options: Unpack[Options]
) -> str: ...


@overload
def generate(
    model: Decoder,
    tokenizer: Tokenizer | None,
    prompts: list[str] | tuple[str, ...],
    *,
    stop: Stop = None,
    **options: Unpack[Options],
) -> list[str]: ...


def generate(
    model: Decoder,
    tokenizer: Tokenizer | None,
    prompts: str | Sequence[str],
    *,
    stop: Stop = None,
    **options: Unpack[Options],
) -> str | list[str]:
    """The continuation of a prompt, or of each of several in one batch; the prompt itself is not repeated.

    Options have Transformers' names and meaning: `max_new_tokens` (256), `temperature` (0: greedy), `top_k`, `top_p`,
    `min_p`, `repetition_penalty`, `seed`, `eos_token_id`. `stop` is one string or several that end a text and are not
    part of it. Greedy, a prompt gives in a batch what it gives alone; else rows draw from the seed and their index.

    So many tokens of a prompt are read at a time: `prefill_chunk_size` (2048). Keys and values are kept in the model's
    dtype, or with a `cache_dtype` of "int8" or "fp8" in eight bits. What a `prompt_cache` (`jaxllm.PromptCache`) has of
    a single prompt is not read again; afterwards it has this one and its continuation.

    Raises:
        InputError: an empty prompt, one that fills the model's context, a setting outside its range, a `prompt_cache`
            of another model.
    """
    texts = [prompts] if isinstance(prompts, str) or not isinstance(prompts, Iterable) else list(prompts)
    if not all(isinstance(text, str) for text in texts):
        raise InputError("prompts must be text; for token ids there is generate_tokens")
    tokenizer = _needed(tokenizer)
    ids = [tokenizer.encode(text) for text in texts]
    rows = [_Row(tokenizer, prompt, _stops(stop)) for prompt in ids]
    for step in steps(model, ids, **options):
        for row, token, live, last in zip(rows, step.token.tolist(), step.live, step.last, strict=True):
            if live and not row.stopped:
                row.push(token)
            row.ended |= bool(last)
        if all(row.stopped or row.ended for row in rows):
            break
    done = [row.text + row.finish() for row in rows]
    return done[0] if isinstance(prompts, str) else done


class _Row:
    """The text of one row, held back wherever a stop string may have begun."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stops: tuple[str, ...]):
        self._stream, self._stops, self._pending = tokenizer.stream(), stops, ""
        self.text, self.stopped, self.ended = "", False, False
        for token in prompt:  # so that the continuation keeps the space that it begins with
            self._stream.push(token)

    def push(self, token: int) -> str:
        """The text that a token makes certain: none for one of an embedding's padding, unknown to the tokenizer."""
        try:
            return self._settle(self._stream.push(token), final=False)
        except InputError:
            return ""

    def finish(self) -> str:
        """What was held back, when no more tokens come."""
        return "" if self.stopped else self._settle(self._stream.finish(), final=True)

    def _settle(self, new: str, final: bool) -> str:
        self._pending += new
        found = [at for stop in self._stops if (at := self._pending.find(stop)) >= 0]
        self.stopped = bool(found)
        certain = min(found) if found else len(self._pending) - (0 if final else self._begun())
        text, self._pending = self._pending[:certain], self._pending[certain:]
        self.text += text
        return text

    def _begun(self) -> int:
        """The length of the longest end of the pending text that begins a stop string."""
        sizes = (n for stop in self._stops for n in range(1, len(stop)) if self._pending.endswith(stop[:n]))
        return max(sizes, default=0)


def _needed(tokenizer: Tokenizer | None) -> Tokenizer:
    if tokenizer is None:
        raise InputError("the checkpoint came without a tokenizer: use generate_tokens, or jaxllm.load_tokenizer")
    return tokenizer


def _ids(prompt: Any) -> list[int]:
    if not hasattr(prompt, "__iter__"):
        raise InputError(f"prompt={prompt!r}: must be text, or token ids")
    return [whole_number("prompt: token id", item, least=0) for item in prompt]


def _stops(stop: Stop) -> tuple[str, ...]:
    stops = tuple(stop or ()) if not isinstance(stop, str) and isinstance(stop, Iterable | None) else (stop,)
    if any(not isinstance(item, str) or not item for item in stops):
        raise InputError(f"stop={stop!r}: must be a string, or several, none of them empty")
    return stops
