"""One declaration per weight: shape, logical axes and initializer, from which everything else follows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer, normal


@dataclass(frozen=True)
class Init:
    """How new parameters are made: a dtype, and a random stream or None for shapes in place of arrays."""

    rngs: nnx.Rngs | None
    dtype: jnp.dtype

    def __call__(
        self, shape: tuple[int, ...], axes: tuple[str, ...], initializer: Initializer = normal(0.02)
    ) -> nnx.Param:
        """A parameter whose axes are known by their logical names (see `jaxllm.sharding.RULES`)."""
        if len(shape) != len(axes):
            raise ValueError(f"{len(axes)} axis names for a shape of {len(shape)}")
        if self.rngs is None:
            return nnx.Param(jax.ShapeDtypeStruct(shape, self.dtype), axes=axes)
        return nnx.Param(initializer(self.rngs.params(), shape, self.dtype), axes=axes)


def named_parameters(model: nnx.Module) -> Iterator[tuple[str, nnx.Param]]:
    """Every parameter of a model under its dotted name, such as `layers.0.attention.query.weight`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(model, is_leaf=lambda node: isinstance(node, nnx.Param))
    for path, parameter in leaves:
        yield ".".join(_key(entry) for entry in path), parameter


def replace_parameters(model: Any, arrays: dict[str, Any]) -> Any:
    """The model with the value of each parameter taken from `arrays`, by dotted name."""

    def replaced(path, parameter):
        return parameter.replace(arrays[".".join(_key(entry) for entry in path)])

    return jax.tree_util.tree_map_with_path(replaced, model, is_leaf=lambda node: isinstance(node, nnx.Param))


def _key(entry: Any) -> str:
    return str(getattr(entry, "name", getattr(entry, "idx", getattr(entry, "key", entry))))
