"""Where scripts that draw get their axes from."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jaxllm.errors import InputError
from scripts.command_line import require_writable


def require_plotting(path: Path) -> None:
    """Raises InputError where nothing could be drawn into a PNG file: without matplotlib, or a place to write it."""
    if find_spec("matplotlib") is None:
        raise InputError('drawing needs matplotlib: pip install -e ".[plot]"')
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: must be a PNG file, NAME.png")
    require_writable(path)


@contextmanager
def png_axes(path: Path, width: float, height: float) -> Iterator[Any]:
    """Axes to draw on, of so many inches, that are written to a PNG file in the end."""
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    yield figure.subplots()
    figure.savefig(path, dpi=100)
