"""What all models have in common: their stacks of layers, their inputs, and how parameters are stored."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm.config import ModelConfig, StackConfig
from jaxllm.errors import InputError
from jaxllm.nn.layer_stack import LayerStack
from jaxllm.nn.parameter import ParameterFactory
from jaxllm.parallel.pipeline import Pipeline


class Model(nnx.Module):
    """A model that is built from a `ModelConfig`: embedding, stacks of layers, head.

    A model is a pytree, for `jax.jit` and other transformations to work on. The config declares the stacks: each is an
    attribute of the model under the same name, a `LayerStack` or, on a mesh with stages, a `Pipeline`.
    """

    config: Any  # a ModelConfig
    embedding: Any

    @property
    def stacks(self) -> Mapping[str, LayerStack | Pipeline]:
        """The stacks of layers, by name."""
        return {name: getattr(self, name) for name in self.config.stacks}

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the residual stream."""
        return self.embedding.weight.dtype

    @property
    def cached_stack(self) -> str | None:
        """Name of the stack whose layers have caches; None if the model caches nothing."""
        return None

    def stage_names(self, name: str) -> tuple[str | None, ...] | None:
        """Returns the names on disk of a parameter that the stages of a pipeline share.

        Returns None for a parameter that is stored under its own name. A stage without such a layer has None.
        """
        stack, rest = self.config.split_name(name)
        if stack is None:
            return None
        names = self.stacks[stack].layer_names(rest)
        if names is None:
            return None
        return tuple(None if layer is None else f"{stack}.{layer}" for layer in names)


def build_stack(init: ParameterFactory, config: StackConfig, dim: int, mesh: Any) -> LayerStack | Pipeline:
    """Builds a stack of layers: a pipeline if the mesh has several stages."""
    if mesh is not None and mesh.shape["stage"] > 1:
        return Pipeline(init, config, dim, mesh)
    return LayerStack(init, config, dim)


def check_tokens(tokens: Any, lengths: Any) -> tuple[jax.Array, jax.Array]:
    """Returns tokens [B T] and their rows' lengths, int32 [B], as arrays; lengths default to T.

    Raises:
      InputError: tokens or lengths have another shape or dtype.
    """
    tokens = jnp.asarray(tokens)
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise InputError(f"tokens: {tokens.dtype}{list(tokens.shape)}, expected integers [B T]")
    batch, time = tokens.shape
    if lengths is None:
        lengths = jnp.full(batch, time, jnp.int32)
    else:
        lengths = jnp.asarray(lengths)
    if lengths.shape != (batch,) or not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise InputError(f"lengths: {lengths.dtype}{list(lengths.shape)}, expected integers [{batch}]")
    return tokens, lengths.astype(jnp.int32)


def check_positions(config: ModelConfig, time: int) -> None:
    """Raises InputError if a model with learned positions has fewer than `time` of them."""
    position = getattr(config, "position", None)
    if position is not None and time > position.length:
        raise InputError(f"tokens: rows of {time}, but the model has {position.length} positions")
