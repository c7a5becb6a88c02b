"""One declaration per weight, and one module per part of a config."""

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
class Init:
    """How new parameters are made: a dtype, and a random stream or None for shapes in place of arrays.

    Each gets the `stacked` axes before its own.
    """

    rngs: nnx.Rngs | None
    dtype: jnp.dtype
    stacked: tuple[tuple[str, int], ...] = ()

    @property
    def wide(self) -> "Init":
        """The same for parameters that are float32 or wider in any model."""
        return replace(self, dtype=jnp.promote_types(self.dtype, jnp.float32))

    def __call__(
        self, shape: tuple[int, ...], axes: tuple[str, ...], initializer: Initializer = normal(0.02)
    ) -> nnx.Param:
        """A parameter whose axes are known by their logical names (see `jaxllm.sharding.RULES`)."""
        if len(shape) != len(axes):
            raise ValueError(f"{len(axes)} axis names for a shape of {len(shape)}")
        shape = (*(size for _, size in self.stacked), *shape)
        axes = (*(name for name, _ in self.stacked), *axes)
        if self.rngs is None:
            return nnx.Param(jax.ShapeDtypeStruct(shape, self.dtype), axes=axes)
        return nnx.Param(initializer(self.rngs.params(), shape, self.dtype), axes=axes)


def builds(part: type) -> Callable[[_Module], _Module]:
    """Marks the module that is built from a part of a config: its constructor takes (init, part, *sizes)."""

    def mark(module: _Module) -> _Module:
        _MODULES[part] = module
        return module

    return mark


def build(init: Init, part: Any, *sizes: Any) -> Any:
    """The module of a part, of the given sizes; None for none. Whatever holds a part need not know its kind."""
    return None if part is None else _MODULES[type(part)](init, part, *sizes)


def named_parameters(model: nnx.Module) -> Iterator[tuple[str, nnx.Param]]:
    """Every parameter of a model under its dotted name, such as `layers.0.attention.query.weight`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(model, is_leaf=is_parameter)
    for path, parameter in leaves:
        yield _name(path), parameter


def replace_parameters(model: Any, arrays: dict[str, Any]) -> Any:
    """The model with the value of each parameter taken from `arrays`, by dotted name."""
    return jax.tree_util.tree_map_with_path(
        lambda path, parameter: parameter.replace(arrays[_name(path)]), model, is_leaf=is_parameter
    )


def is_parameter(node: Any) -> bool:
    """Whether a node of a model's tree is a parameter."""
    return isinstance(node, nnx.Param)


def _name(path: tuple[Any, ...]) -> str:
    return ".".join(str(getattr(entry, "name", getattr(entry, "idx", entry))) for entry in path)
