"""Layers over the stages of a pipeline: consecutive ones on consecutive devices, with microbatches of rows.

Layers are stacked across stages, never within one: slot j of every stage is one array with a leading `stage` axis, so
that each device owns a plain list of its own layers, and nothing is sliced or copied. Microbatches go from stage to
stage as in GPipe (Huang et al. 2019), inside of the one program that the whole mesh runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec

from jaxllm.cache import Span
from jaxllm.nn.parameter import Init, build, is_parameter, named_parameters
from jaxllm.sharding import extent
from jaxllm.stages import arrange
from jaxllm.streaming import Entries, run

MICROBATCH_TOKENS = 256  # fewer do not pay for reading the weights once more
_PER_STAGE = 4  # microbatches, beyond which the idle time at both ends is small


class Pipeline(nnx.Module):
    """Layers built from `parts`, over as many stages as the mesh has; it runs on that mesh alone."""

    def __init__(self, init: Init, parts: Sequence[Any], dim: int, mesh: Any):
        self.parts, self.dim, self.mesh, self.stages = tuple(parts), dim, mesh, mesh.shape["stage"]
        self.order = arrange(parts, [_weights(part, dim) for part in parts], self.stages)
        stacked = replace(init, stacked=(("stage", self.stages),))
        first = [next(layer for layer in slot if layer is not None) for slot in self.order]
        self.slots = nnx.List([build(stacked, parts[layer], dim) for layer in first])

    def __len__(self) -> int:
        """The number of layers."""
        return len(self.parts)

    def __getitem__(self, index: int) -> Any:
        """One of the layers, taken out of its stage."""
        layer = range(len(self))[index]
        slot = next(slot for slot, layers in enumerate(self.order) if layer in layers)
        return _taken(self.slots[slot], self.order[slot].index(layer), self.parts[layer], self.dim)

    @property
    def no_entries(self) -> Entries:
        """In place of cache entries where nothing is to be kept."""
        return (None,) * len(self.order)

    def __call__(self, x: jax.Array, span: Span, entries: Entries) -> tuple[jax.Array, Entries]:
        """x [B T D] -> [B T D] behind the last layer, and the cache entries of all stages."""
        staged, whole = PartitionSpec("stage"), PartitionSpec()
        program = self._on_stages(partial(self._work, x.dtype), (staged, whole, whole, staged), (whole, staged))
        # What stages sum, there and in gradients, is wide: of narrow sums XLA's CPU compiler ends the process.
        out, entries = program(self.slots, x.astype(jnp.promote_types(x.dtype, jnp.float32)), span, entries)
        return out.astype(x.dtype), entries

    def new_entries(self, batch: int, capacity: int, dtype: jnp.dtype) -> Entries:
        """Empty cache entries [stages * B ...]: the rows of one stage behind those of the one before."""

        def new() -> Entries:
            return tuple(layer.new_entry(batch, capacity, dtype) for layer in self.slots)

        return self._on_stages(new, (), PartitionSpec("stage"))()

    def apart(self, entries: Entries) -> Entries:
        """The entries [B ...] of single layers, of those [stages * B ...] that `new_entries` has made; by NumPy."""
        of_layer = {}
        for layers, entry in zip(self.order, entries, strict=True):
            of_stage = (jax.tree.map(lambda x, i=i: np.split(x, self.stages)[i], entry) for i in range(self.stages))
            of_layer |= dict(zip(layers, of_stage, strict=True))
        return tuple(of_layer[layer] for layer in range(len(self)))

    def together(self, entries: Entries) -> Entries:
        """The inverse of `apart`, with zeros where a stage has no layer."""
        result = []
        for layers in self.order:
            like = next(entries[layer] for layer in layers if layer is not None)
            of_stage = [jax.tree.map(np.zeros_like, like) if layer is None else entries[layer] for layer in layers]
            result.append(jax.tree.map(lambda *x: np.concatenate(x), *of_stage))
        return tuple(result)

    def stored_names(self, name: str) -> tuple[str | None, ...]:
        """The names that a parameter `slots.3.attention.query.weight` has in the layers: `7.attention...`."""
        _, index, rest = name.split(".", 2)
        return tuple(None if layer is None else f"{layer}.{rest}" for layer in self.order[int(index)])

    def _on_stages(self, f: Any, in_specs: Any, out_specs: Any) -> Any:
        program = jax.shard_map(
            f, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, axis_names={"stage"}, check_vma=False
        )
        return jax.jit(program)

    def _work(
        self, dtype: jnp.dtype, stacks: Any, x: jax.Array, span: Span, entries: Entries
    ) -> tuple[jax.Array, Entries]:
        """What the devices of one stage do: at each tick a microbatch, which then goes to the next stage.

        A stage works at every tick, so that caches are written in place, where a branch would copy them. When it is not
        its turn, what it works on adds nothing to any row, and caches stay as they are.
        """
        stage, last = jax.lax.axis_index("stage"), self.stages - 1
        wide, x, rows = x.dtype, x.astype(dtype), _Rows(microbatches(x.shape, self.stages, self.mesh))

        def tick(at: jax.Array, carry: tuple[jax.Array, jax.Array, Entries]) -> tuple[jax.Array, jax.Array, Entries]:
            inflow, out, entries = carry
            turn = jnp.clip(at - stage, 0, rows.count - 1)
            mine = jnp.where(stage == 0, rows.take(x, turn), inflow)
            its_span, its_entries = jax.tree.map(lambda array: rows.take(array, turn), (span, entries))
            its_span = its_span._replace(lengths=jnp.where(turn == at - stage, its_span.lengths, its_span.begun))
            y, kept = run(stacks, mine, its_entries, partial(self._apply, stage, its_span))
            entries = jax.tree.map(lambda array, new: rows.put(array, new, turn), entries, kept)
            onward = jax.lax.ppermute(y, "stage", [(i, i + 1) for i in range(last)])
            return onward, rows.put(out, y, turn), entries

        nothing = jnp.zeros_like(rows.take(x, 0))
        _, out, entries = jax.lax.fori_loop(0, rows.count + last, tick, (nothing, jnp.zeros_like(x), entries))
        return jax.lax.psum(jnp.where(stage == last, out, 0).astype(wide), "stage"), entries

    def _apply(
        self, stage: jax.Array, span: Span, slot: int, stack: Any, x: jax.Array, entry: Any
    ) -> tuple[jax.Array, Any]:
        """The slot's layer of this stage; a stage without one has weights of zeros there, and goes on with x."""
        parts = [None if layer is None else self.parts[layer] for layer in self.order[slot]]
        kinds = list(dict.fromkeys(part for part in parts if part is not None))
        branches = [partial(_layer, part, self.dim, stack, span) for part in kinds]
        which = jnp.asarray([0 if part is None else kinds.index(part) for part in parts])[stage]
        y, entry = branches[0](x, entry) if len(kinds) == 1 else jax.lax.switch(which, branches, x, entry)
        present = jnp.asarray([part is not None for part in parts])[stage]
        return y if None not in parts else jnp.where(present, y, x), entry


def microbatches(shape: tuple[int, ...], stages: int, mesh: Any) -> int:
    """How many microbatches x [B T D] goes through the stages in: of equal size, and worth their while.

    A device's share of the rows is cut, not the rows as they are numbered, so that no row changes its device.
    """
    parts = extent("batch", shape[0], mesh)
    rows = shape[0] // parts
    most = min(rows * shape[1] // MICROBATCH_TOKENS, _PER_STAGE * stages, rows)
    return next((count for count in range(most, 1, -1) if rows % count == 0), 1)


@dataclass(frozen=True)
class _Rows:
    """Every `count`-th row of an array [B ...] is a microbatch: a split of rows over devices stays what it was."""

    count: int

    def take(self, array: jax.Array, index: Any) -> jax.Array:
        """The microbatch of that index."""
        return jax.lax.dynamic_index_in_dim(self._apart(array), index, 1, keepdims=False)

    def put(self, array: jax.Array, rows: jax.Array, index: Any) -> jax.Array:
        """The array with the microbatch of that index replaced."""
        return jax.lax.dynamic_update_index_in_dim(self._apart(array), rows, index, 1).reshape(array.shape)

    def _apart(self, array: jax.Array) -> jax.Array:
        return array.reshape(-1, self.count, *array.shape[1:])


def _layer(part: Any, dim: int, stack: Any, span: Span, x: jax.Array, entry: Any) -> tuple[jax.Array, Any]:
    """What the layer of a part makes of x, with the one of the stacked layers that is this stage's."""
    return _taken(stack, 0, part, dim)(x, span, entry)


def _taken(stack: Any, index: int, part: Any, dim: int) -> Any:
    """One of the stacked layers, as the layer of a part."""
    parameters = jax.tree.leaves(stack, is_leaf=is_parameter)
    unstacked = [nnx.Param(parameter[...][index], axes=parameter.axes[1:]) for parameter in parameters]
    return jax.tree.unflatten(jax.tree.structure(_abstract(part, dim), is_leaf=is_parameter), unstacked)


def _abstract(part: Any, dim: int) -> Any:
    return build(Init(None, jnp.dtype(jnp.float32)), part, dim)


def _weights(part: Any, dim: int) -> tuple[Any, ...]:
    """What two layers have in common that can lie in one slot: names and shapes of their weights, and the window."""
    shapes = ((name, parameter.shape) for name, parameter in named_parameters(_abstract(part, dim)))
    return getattr(part.attention, "window", None), *shapes
