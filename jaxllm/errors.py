"""The one exception that a user's input can cause."""


class InputError(ValueError):
    """Bad input, told in one line that names the culprit; the command line prints it and exits with 2."""
