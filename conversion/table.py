"""The weight table: which of their tensors becomes which of our parameters, by an einops pattern.

A row reads from their layout to ours, and backwards for export:

    Row("layers.{i}.attention.query.weight", "model.layers.{i}.self_attn.q_proj.weight", "(n h) d -> n h d")

`{i}` runs over the layers. A row with several of our names has a pattern whose result begins with an axis that runs
over them: that is how a fused projection comes apart. A row applies where the model has the parameter; sizes come
from its declared shape, so that a table needs no numbers.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from einops import rearrange

from conversion.files import Tensor, same_bytes
from conversion.patterns import axes, shape
from jaxllm.arrays import Array
from jaxllm.errors import InputError
from jaxllm.models.decoder import Decoder
from jaxllm.nn.parameter import named_parameters


@dataclass(frozen=True)
class Row:
    """One line of a table: our name or names, theirs, and the pattern from theirs to ours."""

    ours: str | tuple[str, ...]
    theirs: str
    pattern: str

    @property
    def names(self) -> tuple[str, ...]:
        """Our names, however many."""
        return (self.ours,) if isinstance(self.ours, str) else self.ours


@dataclass(frozen=True)
class Table:
    """All rows of an architecture, and the names that may be there without being used, each with the reason.

    `prefix` is what published files may leave out at the front of every name but the head's; `head` may repeat
    `embedding` where the config ties the two.
    """

    rows: tuple[Row, ...]
    ignored: Mapping[str, str]
    embedding: str
    head: str = "lm_head.weight"
    prefix: str = ""


@dataclass(frozen=True)
class Binding:
    """A row for one layer, with the axis sizes known."""

    ours: tuple[str, ...]
    theirs: str
    pattern: str
    sizes: dict[str, int]

    @property
    def their_shape(self) -> tuple[int, ...]:
        """The shape that their tensor must have."""
        return shape(self.pattern.split("->")[0], self.sizes)

    def split(self, array: np.ndarray) -> Iterator[np.ndarray]:
        """Their array -> ours, in the order of our names."""
        result = rearrange(array, self.pattern, **self.sizes)
        yield from result if len(self.ours) > 1 else (result,)


def bind(rows: Iterable[Row], model: Decoder) -> list[Binding]:
    """The rows that a model has parameters for, expanded over its layers.

    Raises:
        InputError: a parameter that no row, or more than one, provides.
    """
    shapes = {name: parameter.shape for name, parameter in named_parameters(model)}
    bindings = [
        Binding(names, row.theirs.format(i=i), row.pattern, _sizes(row.pattern, shapes[names[0]], len(names)))
        for row in rows
        for i in range(len(model.layers) if "{i}" in row.theirs else 1)
        if (names := tuple(name.format(i=i) for name in row.names)) and all(name in shapes for name in names)
    ]
    claims = Counter(name for binding in bindings for name in binding.ours)
    for name in shapes:
        if claims[name] != 1:
            raise InputError(f"parameter {name}: {claims[name] or 'no'} rows of the weight table provide it")
    return bindings


def claim(
    table: Table, model: Decoder, tensors: Mapping[str, Tensor], dtype: np.dtype | None = None
) -> Iterator[Array]:
    """Our parameters from their tensors, checked as a whole before anything is read.

    Raises:
        InputError: a tensor that is missing, misshapen or unknown, named.
    """
    tensors = with_prefix(table, tensors)
    bindings = bind(table.rows, model)
    for binding in bindings:
        _check(binding, tensors)
    claimed = {binding.theirs for binding in bindings}
    for name in tensors.keys() - claimed:
        _check_ignored(table, model, name, tensors)
    for binding in bindings:
        yield from _arrays(binding, tensors[binding.theirs], dtype)


def with_prefix(table: Table, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors under the names of the table, where a file leaves out the prefix (as GPT-2's published ones do)."""
    if not table.prefix or any(name.startswith(table.prefix) for name in tensors):
        return tensors
    return {name if name == table.head else table.prefix + name: tensor for name, tensor in tensors.items()}


def _arrays(binding: Binding, tensor: Tensor, dtype: np.dtype | None) -> Iterator[Array]:
    """An array for each of our names; the parts of a fused tensor are read one by one, being views of one map."""
    count, kept = len(binding.ours), dtype or tensor.dtype
    nbytes = math.prod(tensor.shape) * kept.itemsize // count
    for index, name in enumerate(binding.ours):
        yield Array(name, nbytes, partial(_read, binding, tensor, index, kept))


def _read(binding: Binding, tensor: Tensor, index: int, dtype: np.dtype) -> np.ndarray:
    part = list(binding.split(tensor.read()))[index]
    return part if part.dtype == dtype else part.astype(dtype)


def _check(binding: Binding, tensors: Mapping[str, Tensor]) -> None:
    tensor = tensors.get(binding.theirs)
    if tensor is None:
        raise InputError(f"tensor {binding.theirs}: missing from the checkpoint")
    if tensor.shape != binding.their_shape:
        raise InputError(
            f"tensor {binding.theirs}: shape {list(tensor.shape)} in {tensor.file.name}, "
            f"but the config asks for {list(binding.their_shape)}"
        )
    if tensor.dtype.kind not in "fV":
        raise InputError(f"tensor {binding.theirs}: {tensor.dtype} values where floating-point weights belong")


def _check_ignored(table: Table, model: Decoder, name: str, tensors: Mapping[str, Tensor]) -> None:
    if re.sub(r"\.\d+\.", ".{i}.", name) in table.ignored:
        return
    if name != table.head or model.head is not None:
        raise InputError(f"tensor {name}: in {tensors[name].file.name}, but no part of the model takes it")
    if not same_bytes(tensors[name], tensors[table.embedding]):
        raise InputError(f"tensor {name}: differs from {table.embedding}, though the config ties the two")


def _sizes(pattern: str, ours: tuple[int, ...], count: int) -> dict[str, int]:
    names = [group[0] for group in axes(pattern.split("->")[1])]
    return dict(zip(names, ours if count == 1 else (count, *ours), strict=True))
