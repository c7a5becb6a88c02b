"""Checks of single values, told as `InputError`s that name the value."""

import math
import operator
from numbers import Real
from typing import Any

from jaxllm.errors import InputError


def whole_number(name: str, value: Any, least: int, most: int = 2**31 - 1) -> int:
    """An integer of any library's kind, within bounds.

    Raises:
        InputError: it is no whole number, or out of bounds.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name}={value!r}: must be a whole number") from None
    if not least <= number <= most:
        raise InputError(f"{name}={number}: must be from {least} to {most}")
    return number


def real_number(name: str, value: Any, least: float, most: float = math.inf) -> float:
    """A finite number of any library's kind, within bounds.

    Raises:
        InputError: it is no number, or out of bounds.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise InputError(f"{name}={value!r}: must be a number")
    number = float(value)
    if not least <= number <= most or math.isinf(number):
        bounds = f"at least {least}" if math.isinf(most) else f"from {least} to {most}"
        raise InputError(f"{name}={number}: must be {bounds}")
    return number
