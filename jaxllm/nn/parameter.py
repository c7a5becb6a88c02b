"""Parameter declarations, parameter names, and the registry that builds a module from its config."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer, normal

_MODULES: dict[type, Callable[..., Any]] = {}
_Module = TypeVar("_Module", bound=type)


@dataclass(frozen=True)
class ParameterFactory:
    """Creates the parameters of a model.

    Attributes:
      rngs: random streams, or None to create `jax.ShapeDtypeStruct`s instead of arrays.
      dtype: dtype of the parameters.
      leading_axes: names and sizes of axes that every parameter gets in front of its own.
      quantizable: whether the matrices may be quantized.
    """

    rngs: nnx.Rngs | None
    dtype: jnp.dtype
    leading_axes: tuple[tuple[str, int], ...] = ()
    quantizable: bool = True

    @property
    def full_precision(self) -> "ParameterFactory":
        """The same factory for parameters that are at least float32 in every model, and are never quantized."""
        return replace(self, dtype=jnp.promote_types(self.dtype, jnp.float32), quantizable=False)

    def __call__(
        self,
        shape: tuple[int, ...],
        axes: tuple[str, ...],
        initializer: Initializer = normal(0.02),
        row_dims: int = 0,
        is_table: bool = False,
    ) -> nnx.Param:
        """Creates one parameter.

        Args:
          shape: shape of the parameter.
          axes: logical name of each dimension (see `jaxllm.sharding.RULES`).
          initializer: initializer of its values.
          row_dims: number of trailing dimensions that are contracted, or that form one vector of a table; 0 for a
            parameter that is neither a matrix nor a table. Quantized rows have scales of their own.
          is_table: whether rows are looked up by index.
        """
        if len(shape) != len(axes):
            raise ValueError(f"{len(axes)} axis names for a shape of {len(shape)}")
        shape = (*(size for _, size in self.leading_axes), *shape)
        metadata = {
            "axes": (*(name for name, _ in self.leading_axes), *axes),
            "row_dims": row_dims if self.quantizable else 0,
            "is_table": is_table,
        }
        if self.rngs is None:
            return nnx.Param(jax.ShapeDtypeStruct(shape, self.dtype), **metadata)
        return nnx.Param(initializer(self.rngs.params(), shape, self.dtype), **metadata)


def register_module(config: type) -> Callable[[_Module], _Module]:
    """Registers the decorated module for a config class; its constructor takes `(init, config, *sizes)`."""

    def register(module: _Module) -> _Module:
        _MODULES[config] = module
        return module

    return register


def build(init: ParameterFactory, config: Any, *sizes: Any) -> Any:
    """Builds the module that is registered for a config; None for a config that is None."""
    if config is None:
        return None
    return _MODULES[type(config)](init, config, *sizes)


def named_parameters(model: nnx.Module) -> Iterator[tuple[str, nnx.Param]]:
    """Yields every parameter of a model with its dotted name, such as `layers.0.attention.query.weight`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(model, is_leaf=is_parameter)
    for path, parameter in leaves:
        yield _dotted_name(path), parameter


def replace_parameters(model: Any, arrays: dict[str, Any]) -> Any:
    """Returns the model with the value of each parameter taken from `arrays`, by dotted name."""
    return jax.tree_util.tree_map_with_path(
        lambda path, parameter: parameter.replace(arrays[_dotted_name(path)]), model, is_leaf=is_parameter
    )


def is_parameter(node: Any) -> bool:
    """Whether a node of a model's tree is a parameter."""
    return isinstance(node, nnx.Param)


def _dotted_name(path: tuple[Any, ...]) -> str:
    return ".".join(str(getattr(key, "name", getattr(key, "idx", key))) for key in path)
