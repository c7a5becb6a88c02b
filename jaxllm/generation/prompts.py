"""Prompts as arrays of token ids: checked, and cut into padded chunks."""

from collections.abc import Iterator, Sequence

import numpy as np

from jaxllm.errors import InputError
from jaxllm.generation.decode import bucket
from jaxllm.models.decoder import Decoder


def prompt_chunks(rows: Sequence[np.ndarray], start: int, size: int) -> Iterator[np.ndarray]:
    """Yields the prompts from position `start` on as right-padded chunks, int32 [B T].

    T is `size`; the last chunk is rounded up to a bucket.
    """
    longest = max(map(len, rows))
    for position in range(start, longest, size):
        width = size
        if position + size >= longest:
            width = min(bucket(longest - position, least=16), size)
        tokens = np.zeros((len(rows), width), np.int32)
        for padded, row in zip(tokens, rows, strict=True):
            chunk = row[position : position + width]
            padded[: len(chunk)] = chunk
        yield tokens


def check_prompts(model: Decoder, prompts: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Returns the token ids of each prompt as an array.

    Raises:
      InputError: there are no prompts, or one of them is not a prompt for this model; see `generate_steps`.
    """
    rows = [_check_prompt(model, index, prompt) for index, prompt in enumerate(prompts)]
    if not rows:
        raise InputError("prompts: the list is empty; give at least one prompt")
    return rows


def _check_prompt(model: Decoder, index: int, prompt: Sequence[int]) -> np.ndarray:
    row = np.asarray(prompt)
    vocab_size = model.config.vocab_size
    max_length = model.config.max_length
    if row.shape == (0,):
        raise InputError(f"prompt {index} is empty; give at least one token, for example the tokenizer's BOS")
    if row.ndim != 1 or not np.issubdtype(row.dtype, np.integer):
        raise InputError(f"prompt {index}: must be a sequence of token ids")
    if len(row) >= max_length:
        raise InputError(
            f"prompt {index} has {len(row)} tokens, expected fewer than the model's maximum of {max_length}"
        )
    invalid = row[(row < 0) | (row >= vocab_size)]
    if invalid.size:
        raise InputError(f"prompt {index}: token {invalid[0]} is outside the model's vocabulary of {vocab_size}")
    return row


def seen_tokens(rows: Sequence[np.ndarray], vocab_size: int) -> np.ndarray:
    """Returns which tokens each row has, bool [B V]."""
    seen = np.zeros((len(rows), vocab_size), bool)
    for marked, row in zip(seen, rows, strict=True):
        marked[row] = True
    return seen
