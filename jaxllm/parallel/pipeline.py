"""A stack of layers as a pipeline: consecutive layers on consecutive devices, with microbatches of rows.

Layers are stacked across stages, never within one: slot j of every stage is one array with a leading `stage` axis. Each
device therefore owns a plain list of its own layers, and nothing is sliced or copied. Microbatches pass from stage to
stage as in GPipe (Huang et al. 2019), inside the one program that the whole mesh runs.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec

from jaxllm.cache import CacheSpec, CallContext, LayerCaches
from jaxllm.config import StackConfig
from jaxllm.nn.layer_stack import cache_specs, run_layers
from jaxllm.nn.parameter import ParameterFactory, build, is_parameter, named_parameters
from jaxllm.parallel.stage_assignment import assign_stages, first_layer
from jaxllm.sharding import shard_count

MICROBATCH_TOKENS = 256  # a smaller microbatch does not pay for reading the weights once more
_MICROBATCHES_PER_STAGE = 4  # with more of them, the idle time at both ends hardly shrinks


class Pipeline(nnx.Module):
    """The layers of a `StackConfig`, spread over the stages of a mesh. It runs on that mesh only."""

    def __init__(self, init: ParameterFactory, config: StackConfig, dim: int, mesh: Any):
        self.configs = tuple(config)
        self.dim = dim
        self.mesh = mesh
        self.stages = mesh.shape["stage"]
        self.assignment = assign_stages(self.configs, [layer_kind(layer, dim) for layer in self.configs], self.stages)
        stacked = replace(init, leading_axes=(("stage", self.stages),))
        self.slots = nnx.List([build(stacked, self.configs[first_layer(slot)], dim) for slot in self.assignment])

    def __len__(self) -> int:
        """Number of layers."""
        return len(self.configs)

    def __getitem__(self, index: int) -> Any:
        """Returns one layer, taken out of its stage."""
        layer = range(len(self))[index]
        slot = next(slot for slot, layers in enumerate(self.assignment) if layer in layers)
        stage = self.assignment[slot].index(layer)
        return _unstack_layer(self.slots[slot], stage, self.configs[layer], self.dim)

    @property
    def no_caches(self) -> LayerCaches:
        """Stands for the caches of a call that caches nothing."""
        return (None,) * len(self.assignment)

    def __call__(self, x: jax.Array, call: CallContext, caches: LayerCaches) -> tuple[jax.Array, LayerCaches]:
        """Returns the residual stream [B T D] after the last layer, and the updated caches of all stages."""
        staged = PartitionSpec("stage")
        whole = PartitionSpec()
        program = self._on_stages(partial(self._run_stage, x.dtype), (staged, whole, whole, staged), (whole, staged))
        # Stages sum their results, here and in gradients, in float32: XLA's CPU compiler aborts on narrower sums.
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        out, caches = program(self.slots, wide, call, caches)
        return out.astype(x.dtype), caches

    def new_caches(self, spec: CacheSpec) -> LayerCaches:
        """Creates the empty caches [stages * B ...]: the rows of each stage follow those of the previous one."""

        def new() -> LayerCaches:
            return tuple(layer.new_cache(spec) for layer in self.slots)

        return self._on_stages(new, (), PartitionSpec("stage"))()

    def unstack_caches(self, caches: LayerCaches) -> LayerCaches:
        """Returns the NumPy cache [B ...] of each layer, given those of all stages [stages * B ...]."""
        by_layer = {}
        for layers, cache in zip(self.assignment, caches, strict=True):
            for stage, layer in enumerate(layers):
                by_layer[layer] = jax.tree.map(partial(self._rows_of_stage, stage), cache)
        return tuple(by_layer[layer] for layer in range(len(self)))

    def stack_caches(self, caches: LayerCaches) -> LayerCaches:
        """The inverse of `unstack_caches`. A stage without a layer in a slot gets zeros."""
        stacked = []
        for layers in self.assignment:
            zeros = jax.tree.map(np.zeros_like, caches[first_layer(layers)])
            by_stage = [zeros if layer is None else caches[layer] for layer in layers]
            stacked.append(jax.tree.map(lambda *x: np.concatenate(x), *by_stage))
        return tuple(stacked)

    def cache_specs(self, caches: LayerCaches, mesh: Any) -> LayerCaches:
        """Returns the partition of each array of the stages' caches on a mesh, as the same tree."""
        return cache_specs(caches, mesh, self.stages)

    def layer_names(self, name: str) -> tuple[str | None, ...]:
        """Returns the names that a parameter's shards have on disk, one for each stage.

        For example, `slots.3.attention.query.weight` is stored as `7.attention.query.weight` for the stage whose slot 3
        holds layer 7. A stage without a layer in the slot has None.
        """
        _, slot, rest = name.split(".", 2)
        return tuple(None if layer is None else f"{layer}.{rest}" for layer in self.assignment[int(slot)])

    def _rows_of_stage(self, stage: int, array: jax.Array) -> np.ndarray:
        return np.split(np.asarray(array), self.stages)[stage]

    def _on_stages(self, f: Any, in_specs: Any, out_specs: Any) -> Any:
        program = jax.shard_map(
            f, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, axis_names={"stage"}, check_vma=False
        )
        return jax.jit(program)

    def _run_stage(
        self, dtype: jnp.dtype, slots: Any, x: jax.Array, call: CallContext, caches: LayerCaches
    ) -> tuple[jax.Array, LayerCaches]:
        """Runs one stage: at each tick it processes a microbatch and passes it on to the next stage.

        A stage computes at every tick, so that caches are updated in place; a branch would copy them. At the ticks in
        which it has no microbatch it processes stale input, with a context that adds no token to any row.
        """
        stage = jax.lax.axis_index("stage")
        last = self.stages - 1
        wide = x.dtype
        x = x.astype(dtype)
        batches = _Microbatches(microbatches(x.shape, self.stages, self.mesh))

        def tick(
            time: jax.Array, carry: tuple[jax.Array, jax.Array, LayerCaches]
        ) -> tuple[jax.Array, jax.Array, LayerCaches]:
            received, out, caches = carry
            index = jnp.clip(time - stage, 0, batches.count - 1)
            x_in = jnp.where(stage == 0, batches.take(x, index), received)
            batch_call, batch_caches = jax.tree.map(lambda array: batches.take(array, index), (call, caches))
            has_microbatch = index == time - stage
            lengths = jnp.where(has_microbatch, batch_call.lengths, batch_call.start_positions)
            batch_call = batch_call._replace(lengths=lengths)
            y, batch_caches = run_layers(slots, x_in, batch_caches, partial(self._apply_slot, stage, batch_call))
            caches = jax.tree.map(lambda array, new: batches.put(array, new, index), caches, batch_caches)
            sent = jax.lax.ppermute(y, "stage", [(i, i + 1) for i in range(last)])
            return sent, batches.put(out, y, index), caches

        carry = (jnp.zeros_like(batches.take(x, 0)), jnp.zeros_like(x), caches)
        _, out, caches = jax.lax.fori_loop(0, batches.count + last, tick, carry)
        return jax.lax.psum(jnp.where(stage == last, out, 0).astype(wide), "stage"), caches

    def _apply_slot(
        self, stage: jax.Array, call: CallContext, slot: int, stacked: Any, x: jax.Array, cache: Any
    ) -> tuple[jax.Array, Any]:
        """Applies this stage's layer of a slot. A stage without one has zero weights there, and returns x."""
        configs = [None if layer is None else self.configs[layer] for layer in self.assignment[slot]]
        kinds = list(dict.fromkeys(config for config in configs if config is not None))
        branches = [partial(_apply_layer, config, self.dim, stacked, call) for config in kinds]
        if len(kinds) == 1:
            y, cache = branches[0](x, cache)
        else:
            branch = jnp.asarray([0 if config is None else kinds.index(config) for config in configs])[stage]
            y, cache = jax.lax.switch(branch, branches, x, cache)
        if None not in configs:
            return y, cache
        has_layer = jnp.asarray([config is not None for config in configs])[stage]
        return jnp.where(has_layer, y, x), cache


def microbatches(shape: tuple[int, ...], stages: int, mesh: Any) -> int:
    """Returns the number of microbatches that x [B T D] is split into.

    Microbatches have equal size and at least `MICROBATCH_TOKENS` tokens. They split each device's share of the rows, so
    that no row moves to another device.
    """
    rows = shape[0] // shard_count("batch", shape[0], mesh)
    limit = min(rows * shape[1] // MICROBATCH_TOKENS, _MICROBATCHES_PER_STAGE * stages, rows)
    return next((count for count in range(limit, 1, -1) if rows % count == 0), 1)


@dataclass(frozen=True)
class _Microbatches:
    """Microbatches of arrays [B ...]. Each takes every `count`-th row, which keeps the rows' split over devices."""

    count: int

    def take(self, array: jax.Array, index: Any) -> jax.Array:
        """Returns one microbatch."""
        return jax.lax.dynamic_index_in_dim(self._split(array), index, 1, keepdims=False)

    def put(self, array: jax.Array, rows: jax.Array, index: Any) -> jax.Array:
        """Returns the array with one microbatch replaced."""
        return jax.lax.dynamic_update_index_in_dim(self._split(array), rows, index, 1).reshape(array.shape)

    def _split(self, array: jax.Array) -> jax.Array:
        return array.reshape(-1, self.count, *array.shape[1:])


def _apply_layer(
    config: Any, dim: int, stacked: Any, call: CallContext, x: jax.Array, cache: Any
) -> tuple[jax.Array, Any]:
    """Applies the stage's own layer, built from `config` with the stage's shard of stacked parameters."""
    return _unstack_layer(stacked, 0, config, dim)(x, call, cache)


def _unstack_layer(stacked: Any, index: int, config: Any, dim: int) -> Any:
    """Returns one of the stacked layers, built from `config`."""
    abstract = _abstract_layer(config, dim)
    arrays = [parameter[...][index] for parameter in jax.tree.leaves(stacked, is_leaf=is_parameter)]
    parameters, tree = jax.tree.flatten(abstract, is_leaf=is_parameter)
    return tree.unflatten([parameter.replace(array) for parameter, array in zip(parameters, arrays, strict=True)])


def _abstract_layer(config: Any, dim: int) -> Any:
    return build(ParameterFactory(None, jnp.dtype(jnp.float32)), config, dim)


def layer_kind(config: Any, dim: int) -> tuple[Any, ...]:
    """Returns what two layers that share a slot must have in common: their parameters' names and shapes, the window."""
    parameters = named_parameters(_abstract_layer(config, dim))
    shapes = tuple((name, parameter.shape) for name, parameter in parameters)
    return (getattr(config.attention, "window", None), shapes)
