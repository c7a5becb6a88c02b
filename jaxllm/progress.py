"""Progress of long work, on stderr and only where somebody is looking."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LITTLE = 1 << 28  # bytes that nobody waits for


@contextmanager
def byte_progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar with bytes done, rate and time left, if they are many; yields the function that advances it by some."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    hidden = total < _LITTLE or not console.is_terminal
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(True), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=hidden) as bar:
        task = bar.add_task(description, total=total)
        yield lambda count: bar.advance(task, count)
