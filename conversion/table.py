"""The weight table: which of their tensors becomes which of our parameters, by an einops pattern.

A row reads from their layout to ours, and backwards for export:

    Row("layers.{i}.attention.query.weight", "model.layers.{i}.self_attn.q_proj.weight", "(n h) d -> n h d")

`{i}` runs over the layers. `{e}` in their name runs over tensors that are one array of ours, along its first axis:
of experts, or of heads. A row with several of our names says along which axis a fused tensor comes apart:

    Row((query, key, value), "...query_key_value.weight", "(k g h) d -> (k g) h d", along="g")

A row applies where the model has the parameter; sizes come from its declared shape, so that a table needs no numbers.
Where the config decides what a tensor is called, each of its names has a row that says by `where` for which layers.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial

import numpy as np
from flax import nnx

from conversion.files import Tensor, same_bytes
from conversion.patterns import Pattern
from jaxllm import config
from jaxllm.arrays import Array, Rows, cast
from jaxllm.errors import InputError
from jaxllm.models.decoder import Decoder
from jaxllm.nn.parameter import named_parameters

MAX_STACKED = 1 << 16  # of tensors that are one array of ours; no model has nearly as many experts


@dataclass(frozen=True)
class Row:
    """One line of a table: our name or names, theirs, the pattern from theirs to ours, and where a fused one parts.

    `where`, if given, tells from a layer's block whether the row is for that layer.
    """

    ours: str | tuple[str, ...]
    theirs: str
    pattern: str
    along: str | None = None
    where: Callable[[config.Block | config.ParallelBlock], bool] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Our names, however many."""
        return (self.ours,) if isinstance(self.ours, str) else self.ours


@dataclass(frozen=True)
class Table:
    """All rows of an architecture, and the names that may be there without being used, each with the reason.

    A `*` in such a name stands for anything.
    `further` is the tensor that tells a layer behind the last for one that predicts further tokens, and leaves it out;
    `prefix` is what published files may leave out at the front of every name but the head's; `head` may repeat
    `embedding` where the config ties the two.
    """

    rows: tuple[Row, ...]
    ignored: Mapping[str, str]
    embedding: str
    head: str = "lm_head.weight"
    prefix: str = ""
    further: str = ""


@dataclass(frozen=True)
class Binding:
    """A row for one layer: our parameters, their tensor or (stacked) tensors, and the way between them.

    `axes` are the logical names of the axes of ours.
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    stacked: bool
    pattern: Pattern
    axes: tuple[tuple[str, ...], ...]

    @property
    def their_shape(self) -> tuple[int, ...]:
        """The shape that each of their tensors must have."""
        return self.pattern.source[1:] if self.stacked else self.pattern.source

    def split(self, arrays: Sequence[np.ndarray], index: int) -> np.ndarray:
        """The `index`-th of our parameters, from their arrays; a view where that can be.

        Of stacked tensors some in a row will do, for that part of it.
        """
        if not self.stacked:
            return self.pattern.split(arrays[0], index)
        targets = tuple((len(arrays), *target[1:]) for target in self.pattern.targets)
        return dataclasses.replace(self.pattern, targets=targets).split(np.stack(arrays), index)

    def join(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Their arrays, from all of ours: the inverse of `split`."""
        array = self.pattern.join(arrays)
        return list(array) if self.stacked else [array]


def bind(rows: Iterable[Row], model: Decoder) -> Iterator[Binding]:
    """The rows that a model has parameters for, expanded over its layers; one by one, since a config may ask for any.

    Raises:
        InputError: too many experts; at the end, a parameter that no row, or more than one, provides.
    """
    parameters = dict(named_parameters(model))
    claims: Counter[str] = Counter()
    for row in rows:
        for i in range(len(model.layers) if "{i}" in row.theirs else 1):
            names = tuple(name.format(i=i) for name in row.names)
            if all(name in parameters for name in names) and (row.where is None or row.where(model.config.block(i))):
                claims.update(names)
                yield _bind(row, i, names, [parameters[name] for name in names])
    for name in parameters:
        if claims[name] != 1:
            raise InputError(f"parameter {name}: {claims[name] or 'no'} rows of the weight table provide it")


def claim(table: Table, model: Decoder, tensors: Mapping[str, Tensor], recast: bool = False) -> Iterator[Array]:
    """Our parameters from their tensors, checked as a whole before any is read; with `recast` in the model's dtypes.

    Raises:
        InputError: a tensor that is missing, misshapen or unknown, named; later, one that its new dtype cannot hold.
    """
    tensors = with_prefix(table, tensors)
    dtypes = {name: np.dtype(parameter.dtype) for name, parameter in named_parameters(model)} if recast else {}
    bindings = []
    for binding in bind(table.rows, model):
        for name in binding.theirs:
            _check(name, binding.their_shape, tensors)
        bindings.append(binding)
    claimed = {name for binding in bindings for name in binding.theirs}
    for name in tensors.keys() - claimed:
        _check_ignored(table, model, name, tensors)
    for binding in bindings:
        yield from _arrays(binding, [tensors[name] for name in binding.theirs], dtypes)


def with_prefix(table: Table, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors under the names of the table, where a file leaves out the prefix (as GPT-2's published ones do)."""
    if not table.prefix or any(name.startswith(table.prefix) for name in tensors):
        return tensors
    return {name if name == table.head else table.prefix + name: tensor for name, tensor in tensors.items()}


def _bind(row: Row, layer: int, names: tuple[str, ...], parameters: Sequence[nnx.Param]) -> Binding:
    shapes, stacked = tuple(parameter.shape for parameter in parameters), "{e}" in row.theirs
    if stacked and shapes[0][0] > MAX_STACKED:
        raise InputError(f"tensors {row.theirs.format(i=layer, e='*')}: {shapes[0][0]} of them are too many")
    theirs = tuple(row.theirs.format(i=layer, e=e) for e in range(shapes[0][0] if stacked else 1))
    axes = tuple(parameter.axes for parameter in parameters)
    return Binding(names, theirs, stacked, Pattern(row.pattern, shapes, row.along), axes)


def _arrays(binding: Binding, tensors: Sequence[Tensor], dtypes: Mapping[str, np.dtype]) -> Iterator[Array]:
    """An array for each of our names; the parts of a fused tensor are read one by one, being views of one map."""
    for index, name in enumerate(binding.ours):
        kept = dtypes.get(name) or _common({tensor.dtype for tensor in tensors})
        shape = binding.pattern.targets[index]
        yield Array(name, shape, kept, binding.axes[index], partial(_read, binding, tensors, index, kept))


@dataclass(frozen=True)
class _Stack:
    """One of our parameters, made of many tensors: as many at a time as are asked for."""

    binding: Binding
    tensors: Sequence[Tensor]
    index: int
    dtype: np.dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        names, tensors = self.binding.theirs[rows], self.tensors[rows]
        arrays = [cast(tensor.read(), self.dtype, name) for tensor, name in zip(tensors, names, strict=True)]
        return self.binding.split(arrays, self.index)


@dataclass(frozen=True)
class _View:
    """One of our parameters as its tensor has it; what is asked for gets its dtype."""

    array: np.ndarray
    dtype: np.dtype
    name: str

    def __getitem__(self, rows: slice) -> np.ndarray:
        return cast(self.array[rows], self.dtype, self.name)


def _read(binding: Binding, tensors: Sequence[Tensor], index: int, dtype: np.dtype) -> Rows:
    if binding.stacked:
        return _Stack(binding, tensors, index, dtype)
    return _View(binding.split([tensors[0].read()], index), dtype, binding.theirs[0])


def _common(dtypes: set[np.dtype]) -> np.dtype:
    """The dtype that holds the values of all: one array of ours may be many experts, and they may differ."""
    try:
        return np.result_type(*dtypes)
    except TypeError:  # NumPy knows of none for two kinds of narrow floats
        return np.result_type(np.float32, *(dtype for dtype in dtypes if dtype.itemsize > 2))


def _check(name: str, shape: tuple[int, ...], tensors: Mapping[str, Tensor]) -> None:
    tensor = tensors.get(name)
    if tensor is None:
        raise InputError(f"tensor {name}: missing from the checkpoint")
    if tensor.shape != shape:
        raise InputError(
            f"tensor {name}: shape {list(tensor.shape)} in {tensor.file.name}, but the config asks for {list(shape)}"
        )
    if tensor.dtype.kind not in "fV":
        raise InputError(f"tensor {name}: {tensor.dtype} values where floating-point weights belong")


def _check_ignored(table: Table, model: Decoder, name: str, tensors: Mapping[str, Tensor]) -> None:
    plain = re.sub(r"\.\d+\.", ".{i}.", name)
    if any(fnmatchcase(plain, known) for known in table.ignored):
        return
    if _predicts_further(table, len(model.layers), name, tensors):
        return
    if name != table.head or model.head is not None:
        raise InputError(f"tensor {name}: in {tensors[name].file.name}, but no part of the model takes it")
    if not same_bytes(tensors[name], tensors[table.embedding]):
        raise InputError(f"tensor {name}: differs from {table.embedding}, though the config ties the two")


def _predicts_further(table: Table, layer: int, name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a tensor is of the layer behind the last, and that one is there to predict further tokens."""
    mark = table.further.format(i=layer)
    return mark in tensors and name.startswith(mark[: mark.find(f".{layer}.") + len(f".{layer}.")])
