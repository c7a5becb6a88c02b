"""Checks that several configs share."""

from typing import Any

from jaxllm.errors import InputError


def require_positive(config: Any, allow_zero: tuple[str, ...] = ()) -> None:
    """Raises InputError if a number of a config is not positive, except for those named in `allow_zero`."""
    for name, value in vars(config).items():
        if isinstance(value, int | float) and not isinstance(value, bool) and not value > 0 and name not in allow_zero:
            raise InputError(f"config: {type(config).__name__}.{name}={value}: must be positive")


def require_one_of(name: str, value: str, options: tuple[str, ...]) -> None:
    """Raises InputError unless the value of a field is one of its options."""
    if value not in options:
        raise InputError(f"config: {name}={value!r}: must be {', '.join(options)}")
