"""The one exception that a user's input can cause."""


class InputError(ValueError):
    """Bad input, told in one line that names the culprit; the command line prints it and exits with 2."""

    def __str__(self) -> str:
        # Names from a file may hold line ends, or what a terminal obeys.
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in super().__str__())
