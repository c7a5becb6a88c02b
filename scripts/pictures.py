"""Where scripts that draw get their axes from."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxllm.errors import InputError


@contextmanager
def axes(path: Path, width: float, height: float) -> Iterator[Any]:
    """Axes to draw on, of so many inches, that are written to a PNG file in the end."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError('drawing needs matplotlib: pip install -e ".[plot]"') from None
    figure = Figure((width, height), layout="constrained")
    yield figure.subplots()
    figure.savefig(path, dpi=100)
