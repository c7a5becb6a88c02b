"""What several parts check of themselves."""

from jaxllm.errors import InputError


def one_of(name: str, value: str, options: tuple[str, ...]) -> None:
    """Raises InputError unless the value of a field is one of its options."""
    if value not in options:
        raise InputError(f"config: {name}={value!r}: must be {', '.join(options)}")
