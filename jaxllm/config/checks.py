"""What several parts check of themselves."""

from typing import Any

from jaxllm.errors import InputError


def positive(part: Any, but: tuple[str, ...] = ()) -> None:
    """Raises InputError if one of a part's numbers, those named in `but` aside, is not positive."""
    for name, value in vars(part).items():
        if isinstance(value, int | float) and not isinstance(value, bool) and not value > 0 and name not in but:
            raise InputError(f"config: {type(part).__name__}.{name}={value}: must be positive")


def one_of(name: str, value: str, options: tuple[str, ...]) -> None:
    """Raises InputError unless the value of a field is one of its options."""
    if value not in options:
        raise InputError(f"config: {name}={value!r}: must be {', '.join(options)}")
