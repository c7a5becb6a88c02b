"""Draws where each weight of a model lies on a mesh, and the cache: which device has which part of it.

Nothing is loaded, and the devices need not be there: they are numbered in the order of the mesh, `tensor` innermost.
Of an array, parts of the first axis are drawn downwards, and those of the others to the
right; a line parts the stages of a pipeline. Vectors are left out.

examples:
  python -m scripts.draw_sharding llama-2-70b --mesh tensor=4
  python -m scripts.draw_sharding mixtral-8x7b --mesh expert=2,tensor=2 --only query,gate,down
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from conversion.describe import describe
from jaxllm.cli.common import parse_extents
from jaxllm.config import DecoderConfig
from jaxllm.errors import InputError
from jaxllm.models.abstract import abstract
from jaxllm.planning.memory import format_bytes, replicated_shape
from jaxllm.planning.mesh import MeshShape
from jaxllm.planning.weights import COMPUTE_DTYPES, weights
from jaxllm.sharding import axis_sizes, mesh_axes_of, partition
from scripts.command_line import exit_on_error

WIDTH = 118  # characters of a line
GAP = "   "


class Array(NamedTuple):
    """An array's axes, their sizes, the mesh axes that each is split over, and the bytes of a number."""

    axes: tuple[str, ...]
    shape: tuple[int, ...]
    placed: tuple[Any, ...]
    width: int


def arrays(config: DecoderConfig, dtype: str, mesh: MeshShape, batch: int, capacity: int) -> dict[Array, list[str]]:
    """The names of what lies alike: matrices of the first layer of each kind and of none, and that layer's cache."""
    stages = mesh.shape["stage"]
    found = {}
    matrices = [weight for weight, _ in weights(config, dtype, stages) if weight.name.endswith(".weight")]
    listed = [
        (w.name.removesuffix(".weight").removesuffix(".linear").split(".")[-1], w.axes, w.shape, w.dtype, w.stack)
        for w in matrices
        if len(w.axes) > 1
    ]
    model = abstract(config, COMPUTE_DTYPES[dtype])
    cache = jax.eval_shape(lambda: model.new_cache(batch, capacity)).layers[0]
    heads = config.layers.block(0).attention.heads
    for leaf, axes in zip(jax.tree.leaves(cache), jax.tree.leaves(cache.logical_axes()), strict=True):
        listed.append(("cache", tuple(axes), replicated_shape(axes, leaf.shape, heads, mesh), leaf.dtype, "layers"))
    for name, axes, shape, kind, stack in listed:
        if stages > 1 and stack is not None:
            axes = ("stage", *axes)
            shape = (stages, *shape)
        names = found.setdefault(Array(axes, shape, tuple(partition(name, axes, shape, mesh)), kind.itemsize), [])
        names += [name] * (name not in names)
    return found


def grid(array: Array, mesh: MeshShape) -> np.ndarray:
    """Returns which devices have each part of an array: a list of device numbers for each part [rows columns]."""
    sizes = tuple(mesh.shape.values())
    coordinates = dict(zip(mesh.shape, np.unravel_index(np.arange(mesh.size), sizes), strict=True))
    downwards = 2
    if array.axes[0] != "stage":
        downwards = 1
    parts = []
    for dimensions in (array.placed[:downwards], array.placed[downwards:]):
        over = [axis for entry in dimensions for axis in mesh_axes_of(entry)]
        part = np.zeros(mesh.size, int)
        count = 1
        for axis in over:
            part = part * mesh.shape[axis] + coordinates[axis]
            count = count * mesh.shape[axis]
        parts.append((part, count))
    (row, rows), (column, columns) = parts
    held = [[np.flatnonzero((row == i) & (column == j)) for j in range(columns)] for i in range(rows)]
    return np.array([[_numbers(devices) for devices in line] for line in held])


def picture(names: Sequence[str], array: Array, mesh: MeshShape) -> list[str]:
    """The lines of a drawing, of equal length."""
    cells = grid(array, mesh)
    wide = max(len(cell) for cell in cells.flat) + 2
    top, between, bottom = (a + b.join(["─" * wide] * cells.shape[1]) + c for a, b, c in ("┌┬┐", "├┼┤", "└┴┘"))
    box = ["│" + "│".join(cell.center(wide) for cell in line) + "│" for line in cells]
    if array.axes[0] == "stage":
        each = len(box) // array.shape[0]
        box = [line for i, row in enumerate(box) for line in ([between] * (i > 0 and i % each == 0) + [row])]
    named = zip(array.axes, array.shape, strict=True)
    sizes = " x ".join(f"{size:,} {axis}" for axis, size in named if axis != "stage")
    each = array.width * math.prod(array.shape) / cells.size
    lines = [", ".join(names), sizes, top, *box, bottom, f"{format_bytes(each)} a part"]
    return [line.ljust(max(map(len, lines))) for line in lines]


def side_by_side(pictures: Sequence[list[str]]) -> Iterator[str]:
    """Lines with as many drawings beside each other as there is room for."""
    rows: list[list[list[str]]] = []
    for drawing in pictures:
        if not rows or sum(len(d[0]) + len(GAP) for d in rows[-1]) + len(drawing[0]) > WIDTH:
            rows.append([])
        rows[-1].append(drawing)
    for row in rows:
        yield ""
        for i in range(max(map(len, row))):
            yield GAP.join(d[i] if i < len(d) else " " * len(d[0]) for d in row).rstrip()


def drawn(model: str, mesh: str, dtype: str, batch: int, capacity: int, only: Sequence[str] | None) -> str:
    """The drawings of a model on a mesh, as text."""
    name, part, _ = describe(model)
    extents = parse_extents(mesh)
    placed = MeshShape(axis_sizes(extents, math.prod(extents.values())))
    found = arrays(part, dtype, placed, batch, capacity)
    known = {name for names in found.values() for name in names}
    if unknown := set(only or ()) - known:
        raise InputError(f"only {', '.join(sorted(unknown))}: must be of {', '.join(sorted(known))}")
    shown = [(names, array) for array, names in found.items() if only is None or set(names) & set(only)]
    title = f"{name} on {placed}, in {dtype}: the parts of each array, and which of {placed.size} devices have them"
    return "\n".join([title, *side_by_side([picture(names, array, placed) for names, array in shown])])


def _numbers(devices: np.ndarray) -> str:
    """Formats device numbers: 0-3 if they are consecutive, otherwise 0,4."""
    first = devices[0]
    last = devices[-1]
    whole = len(devices) > 2 and last - first == len(devices) - 1
    if whole:
        return f"{first}-{last}"
    return ",".join(map(str, devices))


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments."""
    summary, _, details = (__doc__ or "").partition("\n")
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=summary, epilog=details.strip(), formatter_class=raw)
    parser.add_argument("model", help="a published model's name, a checkpoint or a repository")
    parser.add_argument("--mesh", required=True, metavar="AXIS=N[,...]", help="devices per axis")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--batch", type=int, default=4, help="rows of the cache (4)")
    parser.add_argument("--capacity", type=int, default=4096, help="positions of the cache (4096)")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), metavar="NAME[,...]", help="as in query,down,cache"
    )
    return parser.parse_args(words)


@exit_on_error("draw_sharding")
def main(words: Sequence[str] | None = None) -> None:
    print(drawn(**vars(parsed(words))))


if __name__ == "__main__":
    main()
