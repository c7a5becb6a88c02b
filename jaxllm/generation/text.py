"""Generation on text: prompts in, whole texts or a stream of pieces out."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

from jaxllm.checks import whole_number
from jaxllm.errors import InputError
from jaxllm.generation.tokens import eos_token_ids, generate_steps
from jaxllm.models.decoder import Decoder
from jaxllm.text import Tokenizer

Stop = str | Sequence[str] | None


@dataclass(frozen=True)
class GenerationResponse:
    """One piece of a streamed text: what one token adds to it, possibly nothing yet.

    Attributes:
      text: the new text.
      token: the token's id.
      logprob: natural log-probability of the token under the model, before sampling settings.
      prompt_tokens: number of tokens of the prompt.
      generated_tokens: number of tokens generated so far.
      prompt_seconds: seconds from the call to the first token.
      seconds: seconds since the call.
      finish_reason: "stop" or "length" on the last piece, otherwise None.
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
        """Decoding rate, without the prompt and the first token."""
        return (self.generated_tokens - 1) / max(self.seconds - self.prompt_seconds, 1e-9)


def stream_generate(
    model: Decoder,
    tokenizer: Tokenizer | None,
    prompt: str | Sequence[int],
    *,
    stop: Stop = None,
    **options: Any,
) -> Iterator[GenerationResponse]:
    """Generates a continuation of one prompt, text or token ids, and yields a `GenerationResponse` for each token.

    Options and errors are those of `generate`.
    """
    began = time.perf_counter()
    tokenizer = _require_tokenizer(tokenizer)
    if isinstance(prompt, str):
        ids = tokenizer.encode(prompt)
    else:
        ids = _check_token_ids(prompt)
    row = _RowText(tokenizer, ids, _check_stops(stop))
    first = 0.0
    for count, step in enumerate(generate_steps(model, [ids], **options), 1):
        now = time.perf_counter() - began
        token = int(step.token[0])
        first = first or now
        reason = None
        text = row.push(token)
        if row.stopped or step.last[0]:
            text += row.finish()
            ended = row.stopped or token in eos_token_ids(model, options.get("eos_token_id"))
            reason = "stop"
            if not ended:
                reason = "length"
        yield GenerationResponse(text, token, float(step.logprob[0]), len(ids), count, first, now, reason)
        if reason:
            break


@overload
def generate(
    model: Decoder,
    tokenizer: Tokenizer | None,
    prompts: str,
    *,
    stop: Stop = None,
    **options: Any,
) -> str: ...


@overload
def generate(
    model: Decoder,
    tokenizer: Tokenizer | None,
    prompts: list[str] | tuple[str, ...],
    *,
    stop: Stop = None,
    **options: Any,
) -> list[str]: ...


def generate(
    model: Decoder,
    tokenizer: Tokenizer | None,
    prompts: str | Sequence[str],
    *,
    stop: Stop = None,
    **options: Any,
) -> str | list[str]:
    """Generates a continuation of a prompt, or of each of several prompts in one batch, without the prompt itself.

    Under greedy decoding a prompt gives the same text in a batch as alone. Otherwise each row draws from the seed and
    its index.

    Args:
      model: the model.
      tokenizer: its tokenizer.
      prompts: a text, or several.
      stop: a string, or several, that end a text and are not part of it.
      **options: see `jaxllm.generation.options.GenerationOptions`.

    Raises:
      InputError: a prompt is empty or as long as the model's maximum length, an option is invalid, or the
        `prompt_cache` belongs to another model.
    """
    if isinstance(prompts, str) or not isinstance(prompts, Iterable):
        texts = [prompts]
    else:
        texts = list(prompts)
    if not all(isinstance(text, str) for text in texts):
        raise InputError("prompts must be text; for token ids there is generate_tokens")
    tokenizer = _require_tokenizer(tokenizer)
    ids = [tokenizer.encode(text) for text in texts]
    rows = [_RowText(tokenizer, prompt, _check_stops(stop)) for prompt in ids]
    for step in generate_steps(model, ids, **options):
        for row, token, live, last in zip(rows, step.token.tolist(), step.live, step.last, strict=True):
            if live and not row.stopped:
                row.push(token)
            row.ended |= bool(last)
        if all(row.stopped or row.ended for row in rows):
            break
    done = [row.text + row.finish() for row in rows]
    if isinstance(prompts, str):
        return done[0]
    return done


class _RowText:
    """The text of one row. Text that may be the beginning of a stop string is held back."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stops: tuple[str, ...]):
        self._stream = tokenizer.stream()
        self._stops = stops
        self._pending = ""
        self.text = ""
        self.stopped = False
        self.ended = False
        for token in prompt:  # the continuation keeps its leading space
            self._stream.push(token)

    def push(self, token: int) -> str:
        """Returns the text that a token adds; none for padding of the embedding, which the tokenizer does not know."""
        try:
            return self._emit(self._stream.push(token), final=False)
        except InputError:
            return ""

    def finish(self) -> str:
        """Returns the text that was held back, once no more tokens come."""
        if self.stopped:
            return ""
        return self._emit(self._stream.finish(), final=True)

    def _emit(self, new: str, final: bool) -> str:
        self._pending += new
        found = [at for stop in self._stops if (at := self._pending.find(stop)) >= 0]
        self.stopped = bool(found)
        if found:
            certain = min(found)
        else:
            certain = len(self._pending) - (0 if final else self._partial_stop_length())
        text = self._pending[:certain]
        self._pending = self._pending[certain:]
        self.text += text
        return text

    def _partial_stop_length(self) -> int:
        """Returns the length of the longest end of the pending text that begins a stop string."""
        sizes = (n for stop in self._stops for n in range(1, len(stop)) if self._pending.endswith(stop[:n]))
        return max(sizes, default=0)


def _require_tokenizer(tokenizer: Tokenizer | None) -> Tokenizer:
    if tokenizer is None:
        raise InputError("the checkpoint came without a tokenizer: use generate_tokens, or jaxllm.load_tokenizer")
    return tokenizer


def _check_token_ids(prompt: Any) -> list[int]:
    if not hasattr(prompt, "__iter__"):
        raise InputError(f"prompt={prompt!r}: must be text, or token ids")
    return [whole_number("prompt: token id", item, min_value=0) for item in prompt]


def _check_stops(stop: Stop) -> tuple[str, ...]:
    if not isinstance(stop, str) and isinstance(stop, Iterable | None):
        stops = tuple(stop or ())
    else:
        stops = (stop,)
    if any(not isinstance(item, str) or not item for item in stops):
        raise InputError(f"stop={stop!r}: must be a string, or several, none of them empty")
    return stops
