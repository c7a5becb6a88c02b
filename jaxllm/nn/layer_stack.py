"""A stack of layers: runs them in order, prefetches their weights, and holds their caches."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

from jaxllm.cache import BlockCache, Cache, CacheSpec, CallContext, LayerCaches, LogicalAxes
from jaxllm.config import StackConfig
from jaxllm.nn.parameter import ParameterFactory, build, is_parameter
from jaxllm.sharding import gather, gathered_spec, mesh_axes_of, partition

# Applies layer number i to the residual stream [B T D]; returns the stream and the layer's updated cache.
ApplyLayer = Callable[[int, Any, jax.Array, Any], tuple[jax.Array, Any]]

RECOMPUTE_BLOCK = 512  # tokens that LongRoPE's second pass processes at a time


class LayerStack(nnx.List):
    """The layers of a `StackConfig`, in order."""

    def __init__(self, init: ParameterFactory, config: StackConfig, dim: int):
        super().__init__([build(init, layer, dim) for layer in config])

    @property
    def no_caches(self) -> LayerCaches:
        """Stands for the caches of a call that caches nothing."""
        return (None,) * len(self)

    def __call__(self, x: jax.Array, call: CallContext, caches: LayerCaches) -> tuple[jax.Array, LayerCaches]:
        """Returns the residual stream [B T D] after the last layer, and the updated caches."""
        return run_layers(self, x, caches, lambda _, layer, x, cache: layer(x, call, cache))

    def new_caches(self, spec: CacheSpec) -> LayerCaches:
        """Creates the empty caches of all layers."""
        return tuple(layer.new_cache(spec) for layer in self)

    def unstack_caches(self, caches: LayerCaches) -> LayerCaches:
        """Returns the cache of each layer."""
        return caches

    def stack_caches(self, caches: LayerCaches) -> LayerCaches:
        """The inverse of `unstack_caches`."""
        return caches

    def cache_specs(self, caches: LayerCaches, mesh: Any) -> LayerCaches:
        """Returns the partition of each array of the layers' caches on a mesh, as the same tree."""
        return cache_specs(caches, mesh)

    def layer_names(self, name: str) -> None:
        """Returns None: every parameter is stored under its own name."""
        return


def hidden_states(stack: Any, x: jax.Array, call: CallContext) -> list[jax.Array]:
    """Returns the residual stream [B T D] in front of the first layer of a stack and after each of its layers."""
    states = [x]
    for index in range(len(stack)):
        x, _ = stack[index](x, call)
        states.append(x)
    return states


def cache_specs(caches: Any, mesh: Any, stages: int = 1) -> Any:
    """Returns the partition of each array of caches on a mesh, as the same tree.

    Args:
      caches: the caches of layers, or a `TokenCache`.
      mesh: the mesh.
      stages: number of stages that each array has the rows of, [stages * B ...].

    Raises:
      InputError: an axis that must be split is not divisible.
    """

    def spec(array: Any, axes: LogicalAxes) -> PartitionSpec:
        rows, *rest = array.shape
        batch, *others = partition("cache", axes, (rows // stages, *rest), mesh)
        if stages > 1:
            batch = ("stage", *mesh_axes_of(batch))
        return PartitionSpec(batch, *others)

    axes = jax.tree.map(lambda cache: cache.logical_axes(), caches, is_leaf=lambda node: hasattr(node, "logical_axes"))
    return jax.tree.map(spec, caches, axes)


def recompute_longrope(
    stack: Any,
    embed: Callable[[jax.Array, CallContext], jax.Array],
    lengths: Sequence[int],
    cache: Cache,
    call: CallContext,
) -> LayerCaches:
    """Recomputes the caches of rows that this call extends beyond an original length of LongRoPE.

    Such a row uses other frequencies for all of its positions, which changes every hidden state behind the first layer.
    All of its tokens are processed again, a block at a time.

    Args:
      stack: the layers.
      embed: maps tokens [B T] to the input of the first layer [B T D].
      lengths: the original lengths (`StackConfig.longrope_original_lengths`).
      cache: the cache before this call, with its tokens.
      call: the call that is about to be processed.

    Returns:
      The layer caches to process the call with.
    """
    lengths = [length for length in lengths if length < cache.capacity]
    if cache.tokens is None or call.start is None or not lengths:
        return cache.layers
    tokens = cache.tokens.tokens
    start = call.start
    crossings = [(cache.tokens.rope_length <= length) & (length < call.rope_length) for length in lengths]
    crosses = (start > 0) & jnp.stack(crossings).any(axis=0)
    size = next(n for n in range(min(RECOMPUTE_BLOCK, tokens.shape[1]), 0, -1) if tokens.shape[1] % n == 0)

    def process_block(index: jax.Array, caches: LayerCaches) -> LayerCaches:
        block_start = jnp.full_like(start, index * size)
        block = jax.lax.dynamic_slice_in_dim(tokens, index * size, size, axis=1)
        block_call = CallContext(block_start, jnp.minimum(start, block_start + size), call.rope_length)
        return stack(embed(block, block_call), block_call, caches)[1]

    def choose(new: jax.Array, old: jax.Array) -> jax.Array:
        rows = jnp.tile(crosses, len(new) // len(crosses))  # a pipeline has the rows once for each stage
        return jnp.where(rows.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    def recompute(caches: LayerCaches) -> LayerCaches:
        empty = jax.tree.map(jnp.zeros_like, caches)
        blocks = (start.max() + size - 1) // size
        return jax.tree.map(choose, jax.lax.fori_loop(0, blocks, process_block, empty), caches)

    return jax.lax.cond(crosses.any(), recompute, lambda caches: caches, cache.layers)


def run_layers(
    layers: Sequence[Any], x: jax.Array, caches: LayerCaches, apply: ApplyLayer
) -> tuple[jax.Array, LayerCaches]:
    """Runs the layers in order and prefetches each layer's weights.

    Weights in host memory, or split over `fsdp`, are copied to the device while the previous layer computes. A barrier
    ties each copy to the input of that previous layer. Without it the compiler would copy all weights at once; with it
    the weights of two layers are on the device at a time.

    Returns:
      The residual stream [B T D] after the last layer, and the updated caches.
    """
    if not any(_is_in_host_memory(parameter) for parameter in _parameters(layers[0])):
        return _run_in_order(layers, x, caches, apply)

    def body(carry: tuple[jax.Array, jax.Array, LayerCaches]) -> tuple[jax.Array, jax.Array, LayerCaches]:
        count, x, caches = carry
        return count + 1, *_run_in_order(layers, x, caches, apply)

    # The compiler keeps the barriers only inside a loop, and it must not know that the loop has one iteration.
    iterations = jax.lax.optimization_barrier(jnp.int32(1))
    _, x, caches = jax.lax.while_loop(lambda carry: carry[0] < iterations, body, (jnp.int32(0), x, caches))
    return x, caches


def _run_in_order(
    layers: Sequence[Any], x: jax.Array, caches: LayerCaches, apply: ApplyLayer
) -> tuple[jax.Array, LayerCaches]:
    updated: list[BlockCache | None] = []
    next_layer, x = _prefetch(layers[0], x)
    for i, cache in enumerate(caches):
        layer = next_layer
        if i + 1 < len(layers):
            next_layer, x = _prefetch(layers[i + 1], x)
        x, cache = apply(i, layer, x, cache)
        updated.append(cache)
    return x, tuple(updated)


def _prefetch(layer: Any, x: jax.Array) -> tuple[Any, jax.Array]:
    """Copies a layer's remote weights to the device and gathers them over `fsdp`, not before x is computed.

    Returns:
      The layer with its weights on the device, and the x that the previous layer must use.
    """
    leaves, tree = jax.tree.flatten(layer, is_leaf=is_parameter)
    remote = [i for i, leaf in enumerate(leaves) if _is_remote(leaf)]
    if not remote:
        return layer, x
    *values, x = jax.lax.optimization_barrier((*(leaves[i][...] for i in remote), x))
    for i, value in zip(remote, values, strict=True):
        on_device = jax.device_put(value, jax.memory.Space.Device)
        leaves[i] = leaves[i].replace(gather(on_device, leaves[i].axes))
    return jax.tree.unflatten(tree, leaves), x


def _parameters(layer: Any) -> Iterable[nnx.Param]:
    return jax.tree.leaves(layer, is_leaf=is_parameter)


def _is_remote(parameter: nnx.Param) -> bool:
    return _is_in_host_memory(parameter) or gathered_spec(parameter.shape, parameter.axes) is not None


def _is_in_host_memory(parameter: nnx.Param) -> bool:
    return jax.typeof(parameter[...]).memory_space == jax.memory.Space.Host
