"""Progress bars for long operations, on stderr if it is a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LITTLE = 1 << 28  # bytes, below which no bar is shown


@contextmanager
def byte_progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows a bar with bytes, rate and remaining time if `total` is large; yields the function that advances it."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    hidden = total < _LITTLE or not console.is_terminal
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(True), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=hidden) as bar:
        task = bar.add_task(description, total=total)
        yield lambda count: bar.advance(task, count)
