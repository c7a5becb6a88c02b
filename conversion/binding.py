"""Binds the rows of a weight table to the parameters of a model."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import nnx

from conversion.patterns import Pattern
from conversion.table import TableRow
from jaxllm.errors import InputError
from jaxllm.models.model import Model
from jaxllm.nn.parameter import named_parameters

MAX_STACKED = 1 << 16  # tensors that are stacked in one parameter; no model has nearly as many experts


@dataclass(frozen=True)
class Binding:
    """A table row bound to one layer of a model.

    Attributes:
      targets: names of our parameters.
      sources: name of their tensor, or names of the tensors that are stacked.
      stacked: whether several tensors are stacked in one parameter.
      pattern: the way from the tensor's layout to ours.
      axes: logical axes of each parameter.
    """

    targets: tuple[str, ...]
    sources: tuple[str, ...]
    stacked: bool
    pattern: Pattern
    axes: tuple[tuple[str, ...], ...]

    @property
    def source_shape(self) -> tuple[int, ...]:
        """The shape that each tensor must have."""
        if self.stacked:
            return self.pattern.source[1:]
        return self.pattern.source

    def split(self, arrays: Sequence[np.ndarray], index: int) -> np.ndarray:
        """Returns parameter number `index` from its tensors; a view where possible.

        A range of stacked tensors yields that range of the parameter.
        """
        if not self.stacked:
            return self.pattern.split(arrays[0], index)
        targets = tuple((len(arrays), *target[1:]) for target in self.pattern.targets)
        return dataclasses.replace(self.pattern, targets=targets).split(np.stack(arrays), index)

    def join(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns the tensors from all parameters; the inverse of `split`."""
        joined = self.pattern.join(arrays)
        if self.stacked:
            return list(joined)
        return [joined]


def bind(rows: Iterable[TableRow], model: Model) -> Iterator[Binding]:
    """Yields the rows that a model has parameters for, for each of its layers.

    Raises:
      InputError: a row stacks too many tensors, or a parameter is not the target of exactly one row.
    """
    parameters = dict(named_parameters(model))
    claims: Counter[str] = Counter()
    for row in rows:
        for layer, config in _layers(row, model):
            names = tuple(name.format(i=layer) for name in row.targets)
            applies = row.applies_to is None or row.applies_to(config)
            if applies and all(name in parameters for name in names):
                claims.update(names)
                yield _bind_row(row, layer, names, [parameters[name] for name in names])
    for name in parameters:
        if claims[name] != 1:
            count = claims[name] or "no"
            raise InputError(f"parameter {name}: {count} rows of the weight table provide it, expected 1")


def _layers(row: TableRow, model: Model) -> Iterator[tuple[int, Any]]:
    """Yields the number and config of each layer that a row may apply to; (0, None) for a row outside the stacks."""
    if "{i}" not in row.source:
        yield 0, None
        return
    stack, _, _ = row.targets[0].partition(".")
    yield from enumerate(model.config.stacks[stack])


def _bind_row(row: TableRow, layer: int, names: tuple[str, ...], parameters: Sequence[nnx.Param]) -> Binding:
    shapes = tuple(parameter.shape for parameter in parameters)
    axes = tuple(parameter.axes for parameter in parameters)
    pattern = Pattern(row.pattern, shapes, row.split_axis)
    if "{e}" not in row.source:
        return Binding(names, (row.source.format(i=layer),), False, pattern, axes)
    count = shapes[0][0]
    if count > MAX_STACKED:
        raise InputError(
            f"tensors {row.source.format(i=layer, e='*')}: {count} of them, expected at most {MAX_STACKED}"
        )
    sources = tuple(row.source.format(i=layer, e=index) for index in range(count))
    return Binding(names, sources, True, pattern, axes)
