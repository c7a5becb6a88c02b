"""Checks of single values, which raise an `InputError` that names the value."""

import math
import operator
from numbers import Real
from typing import Any

from jaxllm.errors import InputError


def whole_number(name: str, value: Any, min_value: int, max_value: int = 2**31 - 1) -> int:
    """Returns an integer of any library's type, within bounds.

    Raises:
      InputError: the value is not an integer, or out of bounds.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name}={value!r}: must be a whole number") from None
    if not min_value <= number <= max_value:
        raise InputError(f"{name}={number}: must be from {min_value} to {max_value}")
    return number


def real_number(name: str, value: Any, min_value: float, max_value: float = math.inf) -> float:
    """Returns a finite number of any library's type, within bounds.

    Raises:
      InputError: the value is not a number, or out of bounds.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise InputError(f"{name}={value!r}: must be a number")
    number = float(value)
    if not min_value <= number <= max_value or math.isinf(number):
        if math.isinf(max_value):
            bounds = f"at least {min_value}"
        else:
            bounds = f"from {min_value} to {max_value}"
        raise InputError(f"{name}={number}: must be {bounds}")
    return number
