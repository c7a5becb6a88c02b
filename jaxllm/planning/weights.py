"""The parameters of a model that need not be loaded, grouped by kinds of layers."""

import math
from collections import Counter
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxllm.config import ModelConfig, StackConfig
from jaxllm.models.abstract import abstract
from jaxllm.nn.parameter import named_parameters
from jaxllm.parallel.pipeline import layer_kind
from jaxllm.parallel.stage_assignment import assign_stages, first_layer

# Dtypes that weights may be stored in, and the dtype that a model then computes in.
COMPUTE_DTYPES = {
    "float64": jnp.float64,
    "float32": jnp.float32,
    "bfloat16": jnp.bfloat16,
    "float16": jnp.float16,
    "int8": jnp.bfloat16,
    "int4": jnp.bfloat16,
}


class Weight(NamedTuple):
    """A parameter of a model.

    Attributes:
      name: its name in the first layer of its kind.
      axes: logical axis of each dimension.
      shape: its shape.
      dtype: dtype that it has in a model that is not quantized.
      row_dims: number of trailing dimensions that share a scale when quantized; 0 if it is never quantized.
      is_table: whether rows are looked up by index.
      stack: name of the layer stack that it belongs to; None if it belongs to none.
      layer: number of the first layer of its kind.
    """

    name: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: Any
    row_dims: int
    is_table: bool
    stack: str | None
    layer: int

    @property
    def nbytes(self) -> int:
        """Bytes of the whole parameter."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def contracts_heads(self) -> bool:
        """Whether it is the output projection of attention."""
        return "heads" in self.axes[len(self.axes) - self.row_dims :]

    def experts(self, config: ModelConfig) -> tuple[int, int]:
        """Returns how many experts it has the weights of, and how many of them process a token; else (1, 1)."""
        if "experts" not in self.axes or self.stack is None:
            return 1, 1
        router = config.stacks[self.stack].block(self.layer).feed_forward.router  # pyright: ignore[reportAttributeAccessIssue]
        return router.num_experts, router.num_experts_per_tok


@cache
def weights(config: ModelConfig, stored: str, stages: int = 1) -> tuple[tuple[Weight, int], ...]:
    """Returns every parameter of one layer of each kind and of the rest of the model, with its number per device.

    Args:
      config: the model.
      stored: dtype that weights are stored in, a key of `COMPUTE_DTYPES`.
      stages: number of stages of a pipeline.
    """
    found = []
    for name, parameter in named_parameters(abstract(one_layer_per_kind(config), COMPUTE_DTYPES[stored])):
        stack, rest = config.split_name(name)
        layer = 0
        count = 1
        if stack is not None:
            index, _, inner = rest.partition(".")
            layer = first_layers(config.stacks[stack], config.embed_dim)[int(index)]
            count = layers_per_device(config.stacks[stack], config.embed_dim, stages)[layer]
            name = f"{stack}.{layer}.{inner}"
        weight = Weight(
            name,
            tuple(parameter.axes),
            tuple(parameter.shape),
            parameter.dtype,
            parameter.row_dims,
            parameter.is_table,
            stack,
            layer,
        )
        found.append((weight, count))
    return tuple(found)


def parameter_count(config: ModelConfig) -> int:
    """Returns the number of parameters of a model."""
    return sum(math.prod(weight.shape) * count for weight, count in weights(config, "bfloat16"))


def active_count(config: ModelConfig) -> int:
    """Returns the number of parameters that process a token: of a mixture's experts, those it is routed to."""
    total = 0
    for weight, count in weights(config, "bfloat16"):
        experts, selected = weight.experts(config)
        total += math.prod(weight.shape) // experts * selected * count
    return total


def one_layer_per_kind(config: ModelConfig) -> ModelConfig:
    """Returns the config with one layer of each kind in every stack."""
    stacks = {}
    for name, stack in config.stacks.items():
        blocks = tuple(stack.block(layer) for layer in first_layers(stack, config.embed_dim))
        stacks[name] = StackConfig(len(blocks), blocks)
    return replace(config, **stacks)


@cache
def layer_kinds(stack: StackConfig, dim: int) -> tuple[int, ...]:
    """Returns, for each layer, the first one of its kind: with the same parameters' names and shapes, and window."""
    first: dict[Any, int] = {}
    kinds = {block: layer_kind(block, dim) for block in stack.blocks}
    return tuple(first.setdefault(kinds[block], layer) for layer, block in enumerate(stack))


def first_layers(stack: StackConfig, dim: int) -> list[int]:
    """Returns the first layer of each kind."""
    return sorted(set(layer_kinds(stack, dim)))


@cache
def layers_per_device(stack: StackConfig, dim: int, stages: int) -> Counter[int]:
    """Returns, for each kind (by its first layer), how many layers a device has room for."""
    kinds = layer_kinds(stack, dim)
    assignment = assign_stages(list(stack), kinds, stages)
    return Counter(kinds[first_layer(slot)] for slot in assignment)
