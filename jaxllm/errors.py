"""The exception for invalid input."""


class InputError(ValueError):
    """Invalid input, described in one line that names the culprit. The command line prints it and exits with code 2."""

    def __str__(self) -> str:
        # Names from a file may contain line ends or control characters.
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in super().__str__())
