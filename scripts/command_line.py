"""What scripts with a command line share: a mistake costs one line, and before the work rather than after it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxllm.errors import InputError


@contextmanager
def exit_on_error(prog: str) -> Iterator[None]:
    """Ends with one line and exit code 2 for a mistake of input, as `jaxllm` does; to be put on a `main`."""
    try:
        yield
    except BrokenPipeError:  # the reader of our output has gone
        sys.stderr.close()
    except (InputError, OSError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        sys.exit(2)


def require_writable(path: Path) -> None:
    """Raises InputError where no file can be written: what was measured for an hour should have a place to go."""
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"{path}: cannot be written")
