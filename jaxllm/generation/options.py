"""The options of generation: name, default, validation and help text, each defined once.

`generate`, the command line and the documentation derive from `GenerationOptions`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import partial
from typing import Any, Self

import numpy as np

from jaxllm.checks import real_number, whole_number
from jaxllm.errors import InputError

MIN_TEMPERATURE = 1e-6  # a lower one would overflow the logits

Validate = Callable[[str, Any], Any]


def _option(default: Any, help: str, validate: Validate, *, type: type | None = None, short: str | None = None) -> Any:
    """Declares an option. `type` is that of its argument on the command line; None if it has none there."""
    return field(default=default, metadata={"help": help, "validate": validate, "type": type, "short": short})


def _optional(validate: Validate) -> Validate:
    """Accepts None besides what `validate` accepts."""
    return lambda name, value: None if value is None else validate(name, value)


def _temperature(name: str, value: Any) -> float:
    temperature = real_number(name, value, min_value=0)
    if 0 < temperature < MIN_TEMPERATURE:
        raise InputError(f"{name}={value}: must be 0, for greedy decoding, or at least {MIN_TEMPERATURE}")
    return temperature


def _cache_dtype(name: str, value: Any) -> str:
    from jaxllm.cache.quantized_kv import DTYPES  # imports JAX, which the command line's help does not need

    if value not in tuple(DTYPES):
        raise InputError(
            f"{name}={value!r}: must be {' or '.join(map(repr, DTYPES))}, or None for the model's own dtype"
        )
    return value


def _token_ids(name: str, value: Any) -> tuple[int, ...]:
    ids = np.atleast_1d(np.asarray(value)).tolist()
    return tuple(whole_number(name, item, min_value=-1) for item in ids)


def _anything(name: str, value: Any) -> Any:
    """Accepts every value: the prompt cache checks itself."""
    return value


_positive = partial(whole_number, min_value=1)
_probability = partial(real_number, min_value=0, max_value=1)


@dataclass(frozen=True)
class GenerationOptions:
    """Options of `generate`, under the names and with the meaning that they have in Transformers.

    Attributes:
      max_new_tokens: number of tokens to generate at most.
      temperature: divisor of the logits; 0 selects the likeliest token.
      top_k: samples among the k likeliest tokens only.
      top_p: samples among the likeliest tokens whose probabilities add up to p.
      min_p: samples among tokens at least p times as likely as the likeliest.
      repetition_penalty: above 1, makes tokens less likely that the row already has.
      seed: seed of the random numbers; None draws one.
      eos_token_id: token ids that end a row; None means the model's own, an empty list none.
      prefill_chunk_size: number of tokens of a prompt to process at a time.
      cache_dtype: "int8" or "fp8" stores keys and values in eight bits; None in the model's dtype.
      prompt_cache: a `PromptCache` whose prefix is not processed again, and which then stores this row.
    """

    max_new_tokens: int = _option(256, "generate at most this many tokens", _positive, type=int, short="-n")
    temperature: float = _option(0.0, "0 selects the likeliest token", _temperature, type=float, short="-t")
    top_k: int | None = _option(
        None, "sample among the k likeliest tokens", _optional(partial(whole_number, min_value=0)), type=int
    )
    top_p: float | None = _option(
        None, "sample among the likeliest tokens that add up to probability p", _optional(_probability), type=float
    )
    min_p: float | None = _option(
        None, "sample among tokens at least p times as likely as the likeliest", _optional(_probability), type=float
    )
    repetition_penalty: float | None = _option(
        None,
        "above 1, tokens that are already in the text get less likely",
        _optional(partial(real_number, min_value=1e-6)),
        type=float,
    )
    seed: int | None = _option(
        None,
        "the same seed gives the same text",
        _optional(partial(whole_number, min_value=0, max_value=2**32 - 1)),
        type=int,
    )
    eos_token_id: int | Sequence[int] | None = _option(None, "token ids that end a row", _optional(_token_ids))
    prefill_chunk_size: int = _option(2048, "process this many tokens of a prompt at a time", _positive, type=int)
    cache_dtype: str | None = _option(
        None, "int8 or fp8 halves the memory of keys and values", _optional(_cache_dtype), type=str
    )
    prompt_cache: Any = _option(None, "a prompt cache to read and update", _anything)

    @classmethod
    def of(cls, **options: Any) -> Self:
        """Returns validated options.

        Raises:
          InputError: an option is unknown, or its value is out of range.
        """
        known = {option.name: option for option in fields(cls)}
        for name in options:
            if name not in known:
                near = get_close_matches(name, known, n=1)
                raise InputError(f"unknown option {name!r}" + (f"; did you mean {near[0]}?" if near else ""))
        return cls(**{name: known[name].metadata["validate"](name, value) for name, value in options.items()})
