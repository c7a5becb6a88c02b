"""Claims the tensors of a checkpoint for the parameters of a model: each must be used, or be known as unused."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial

import numpy as np

from conversion.binding import Binding, bind
from conversion.files import Tensor, same_bytes
from conversion.table import WeightTable
from jaxllm.arrays import ArraySource, RowReader, cast
from jaxllm.errors import InputError
from jaxllm.models.model import Model
from jaxllm.nn.parameter import named_parameters


def claim(
    table: WeightTable, model: Model, tensors: Mapping[str, Tensor], recast: bool = False
) -> Iterator[ArraySource]:
    """Yields the sources of all parameters. All tensors are checked before any is read.

    Args:
      table: the weight table.
      model: the model.
      tensors: the tensors of the checkpoint, by name.
      recast: whether to convert them to the model's dtypes.

    Raises:
      InputError: a tensor is missing, unknown, or has another shape; later, a value does not fit its new dtype.
    """
    tensors = with_prefix(table, tensors)
    dtypes: dict[str, np.dtype] = {}
    if recast:
        dtypes = {name: np.dtype(parameter.dtype) for name, parameter in named_parameters(model)}
    bindings = []
    for binding in bind(table.rows, model):
        for name in binding.sources:
            _check_tensor(name, binding.source_shape, tensors)
        bindings.append(binding)
    used = {name for binding in bindings for name in binding.sources}
    for name in tensors.keys() - used:
        _check_unused(table, model, name, tensors)
    for binding in bindings:
        yield from _sources(binding, [tensors[name] for name in binding.sources], dtypes)


def with_prefix(table: WeightTable, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Returns the tensors under the table's names, for files without the prefix, such as GPT-2's published ones."""
    if not table.prefix or any(name.startswith(table.prefix) for name in tensors):
        return tensors
    return {name if name == table.head else table.prefix + name: tensor for name, tensor in tensors.items()}


def _sources(binding: Binding, tensors: Sequence[Tensor], dtypes: Mapping[str, np.dtype]) -> Iterator[ArraySource]:
    """Yields the source of each parameter. The parts of a fused tensor are views of one memory map."""
    for index, name in enumerate(binding.targets):
        dtype = dtypes.get(name) or _common_dtype({tensor.dtype for tensor in tensors})
        read = partial(_read, binding, tensors, index, dtype)
        yield ArraySource(name, binding.pattern.targets[index], dtype, binding.axes[index], read)


@dataclass(frozen=True)
class _StackedTensors:
    """A parameter that stacks many tensors, of which only the requested ones are read."""

    binding: Binding
    tensors: Sequence[Tensor]
    index: int
    dtype: np.dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        names = self.binding.sources[rows]
        tensors = self.tensors[rows]
        arrays = [cast(tensor.read(), self.dtype, name) for tensor, name in zip(tensors, names, strict=True)]
        return self.binding.split(arrays, self.index)


@dataclass(frozen=True)
class _TensorView:
    """A parameter that is a view of one tensor. Requested rows are converted to the dtype."""

    array: np.ndarray
    dtype: np.dtype
    name: str

    def __getitem__(self, rows: slice) -> np.ndarray:
        return cast(self.array[rows], self.dtype, self.name)


def _read(binding: Binding, tensors: Sequence[Tensor], index: int, dtype: np.dtype) -> RowReader:
    if binding.stacked:
        return _StackedTensors(binding, tensors, index, dtype)
    return _TensorView(binding.split([tensors[0].read()], index), dtype, binding.sources[0])


def _common_dtype(dtypes: set[np.dtype]) -> np.dtype:
    """Returns a dtype that holds the values of all; the experts of one parameter may have different ones."""
    try:
        return np.result_type(*dtypes)
    except TypeError:  # NumPy has no common dtype for two kinds of narrow floats
        return np.result_type(np.float32, *(dtype for dtype in dtypes if dtype.itemsize > 2))


def _check_tensor(name: str, shape: tuple[int, ...], tensors: Mapping[str, Tensor]) -> None:
    tensor = tensors.get(name)
    if tensor is None:
        raise InputError(f"tensor {name}: missing from the checkpoint")
    if tensor.shape != shape:
        raise InputError(
            f"tensor {name}: shape {list(tensor.shape)} in {tensor.file.name}, but the config asks for {list(shape)}"
        )
    if tensor.dtype.kind not in "fV":
        raise InputError(f"tensor {name}: {tensor.dtype} values, expected floating-point weights")


def _check_unused(table: WeightTable, model: Model, name: str, tensors: Mapping[str, Tensor]) -> None:
    """Raises InputError unless a tensor that no row uses is known to be unnecessary."""
    without_layer = re.sub(r"\.\d+\.", ".{i}.", name)
    if any(fnmatchcase(without_layer, pattern) for pattern in table.ignored):
        return
    if _is_multi_token_prediction(table, model, name, tensors):
        return
    if name != table.head or getattr(model, "head", None) is not None:
        raise InputError(f"tensor {name}: in {tensors[name].file.name}, but no part of the model takes it")
    if not same_bytes(tensors[name], tensors[table.embedding]):
        raise InputError(f"tensor {name}: differs from {table.embedding}, though the config ties the two")


def _is_multi_token_prediction(table: WeightTable, model: Model, name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a tensor belongs to the multi-token prediction layer, which follows the last layer."""
    *_, stack = model.config.stacks.values()
    layer = stack.num_layers
    mark = table.multi_token_prediction.format(i=layer)
    prefix = mark[: mark.find(f".{layer}.") + len(f".{layer}.")]
    return mark in tensors and name.startswith(prefix)
