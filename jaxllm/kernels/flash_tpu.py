"""Flash attention for TPUs (Dao et al. 2022) in Pallas: one kernel for prefill and decoding.

The queries of a key-value head are packed into rows [B K T*G H], with G = N // K, so that a key is read once for all
heads that share it. A query attends to one range of keys. Blocks of keys outside the ranges of a block of rows are
neither copied nor computed, and blocks inside all of them are not masked.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxllm.kernels.call import AttentionCall, Device
from jaxllm.kernels.flash_tpu_body import Operands, SoftmaxState, Tables, TPULaunchPlan, body, floor_div, key_axis
from jaxllm.kernels.spec import AttentionInputs, AttentionOutput, AttentionSpec, alibi_slopes


@dataclass(frozen=True)
class TPUBlockSizes:
    """Number of packed rows and keys of a block; at most `few` rows leave room for more keys.

    Heads larger than `wide` get half as many keys. All sizes are multiples of 128, the lanes of a register.
    """

    rows: int = 512
    keys: int = 1024
    few: int = 128
    keys_of_few: int = 2048
    wide: int = 128

    def of(self, rows: int, head_dim: int) -> tuple[int, int]:
        """Returns the rows and keys of a block for a number of rows and a head size."""
        keys = self.keys
        if rows <= self.few:
            keys = self.keys_of_few
        if head_dim > self.wide:
            keys //= 2
        return self.rows, keys


def unsupported_reason(call: AttentionCall, device: Device) -> str | None:
    """Returns why the kernel cannot serve a call on a device; None if it can."""
    alibi = call.spec.alibi
    if device.platform != "tpu":
        return f"it runs on TPUs, not on {device.platform}"
    if call.dtype not in (jnp.bfloat16, jnp.float32):
        return f"TPUs multiply bfloat16 and float32, not {call.dtype}"
    if call.keys < 16:
        return "it takes blocks of at least 16 keys"
    if alibi is not None and alibi.bfloat16:
        return "it has no ALiBi that is rounded to bfloat16"
    return None


def flash_tpu(
    inputs: AttentionInputs, spec: AttentionSpec, *, blocks: TPUBlockSizes | None = None, interpret: Any = False
) -> AttentionOutput:
    """Computes attention of query [B T N H] on key [B K S H] and value [B K S V] on a TPU, or interpreted on the CPU.

    `interpret` is the argument of `pallas_call`.
    """
    batch, queries, heads, head_dim = inputs.query.shape
    _, kv_heads, all_keys, _ = inputs.key.shape
    groups = heads // kv_heads
    value_dim = AttentionCall.of(inputs, spec).value_dim
    rows, keys = (blocks or TPUBlockSizes()).of(queries * groups, head_dim)
    plan = TPULaunchPlan(spec, min(rows, queries * groups), min(keys, all_keys), groups, all_keys, value_dim)
    out, lse = _call(_operands(inputs, spec), _tables(inputs, plan), plan, interpret)
    out = out.reshape(batch, kv_heads, queries, groups, -1).transpose(0, 2, 1, 3, 4)
    lse = lse.reshape(batch, kv_heads, queries, groups).transpose(0, 2, 1, 3)
    return AttentionOutput(out.reshape(batch, queries, heads, -1), lse.reshape(batch, queries, heads))


def _operands(inputs: AttentionInputs, spec: AttentionSpec) -> Operands:
    """Returns the inputs in the layout that the kernel reads."""
    batch, queries, _, head_dim = inputs.query.shape
    kv_heads = inputs.key.shape[1]
    query = inputs.query.reshape(batch, queries, kv_heads, -1, head_dim).transpose(0, 2, 1, 3, 4)

    def by_head(array):
        if array is None:
            return None
        return jnp.moveaxis(array, 2, 2 + key_axis(array.shape[-1]))

    scales = (None if scale is None else scale[..., None] for scale in (inputs.key_scale, inputs.value_scale))
    return Operands(
        query.reshape(batch, kv_heads, -1, head_dim),
        *map(by_head, (inputs.key, inputs.value, *scales)),
        slopes=alibi_slopes(inputs, spec),
        sinks=None if inputs.sinks is None else inputs.sinks.astype(jnp.float32),
    )


def _tables(inputs: AttentionInputs, plan: TPULaunchPlan) -> Tables:
    """Returns which keys each block of rows attends to."""
    batch, queries = inputs.query.shape[:2]
    offset = inputs.offsets_or_zeros()
    length = inputs.lengths_or_all()
    start = jnp.arange(0, queries * plan.groups, plan.rows, dtype=jnp.int32)
    end = jnp.minimum(start + plan.rows, queries * plan.groups) - 1
    low, all_high = plan.key_range(offset[:, None] + floor_div(start, plan.groups), length[:, None])
    all_low, high = plan.key_range(offset[:, None] + floor_div(end, plan.groups), length[:, None])
    first = jnp.minimum(floor_div(low, plan.keys), pl.cdiv(plan.all_keys, plan.keys) - 1)
    last = floor_div(high - 1, plan.keys)
    shape = batch, len(start)
    return Tables(offset, length, *(jnp.broadcast_to(x, shape).reshape(-1) for x in (first, last, all_low, all_high)))


def _call(operands: Operands, tables: Tables, plan: TPULaunchPlan, interpret: Any) -> tuple[jax.Array, jax.Array]:
    """Returns out [B K T*G V] and lse [B K T*G], over a grid of batch, key-value heads, and blocks of rows and keys.

    The last dimension of the grid is as long as the longest range of keys needs, not as the cache.
    """
    batch, kv_heads, all_rows, head_dim = operands.query.shape
    grid = batch, kv_heads, pl.cdiv(all_rows, plan.rows), 1
    if plan.keys < plan.all_keys:
        grid = *grid[:3], jnp.maximum(jnp.max(tables.last - tables.first) + 1, 1)

    def block(b, i, j, tables):
        first, last = (table[b * grid[2] + i] for table in (tables.first, tables.last))
        return jnp.minimum(first + j, jnp.maximum(first, last))  # a repeated index is not copied again

    def of_keys(dim):
        shape = [None, None, dim, dim]
        axis = 2 + key_axis(dim)
        shape[axis] = plan.keys
        return pl.BlockSpec(
            shape, lambda b, k, i, j, tables: (b, k, *(block(b, i, j, tables) * (a == axis) for a in (2, 3)))
        )

    of_rows = partial(pl.BlockSpec, index_map=lambda b, k, i, j, tables: (b, k, i, 0))
    query = of_rows((None, None, plan.rows, head_dim))
    head = pl.BlockSpec(memory_space=pltpu.SMEM)
    specs = Operands(query, *map(of_keys, (head_dim, plan.value_dim, 1, 1)), slopes=head, sinks=head)
    column, mixed = (pltpu.VMEM((plan.rows, size), jnp.float32) for size in (1, plan.value_dim))
    out, lse = pl.pallas_call(
        partial(body, plan=plan),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=grid,
            in_specs=[Operands(*(None if x is None else spec for x, spec in zip(operands, specs, strict=True)))],
            out_specs=[
                of_rows((None, None, plan.rows, plan.value_dim)),
                pl.BlockSpec((None, None, 1, plan.rows), lambda b, k, i, j, tables: (b, k, 0, i)),
            ],
            scratch_shapes=[SoftmaxState(column, column, mixed, None if operands.slopes is None else column)],
        ),
        out_shape=[
            jax.ShapeDtypeStruct((batch, kv_heads, all_rows, plan.value_dim), operands.query.dtype),
            jax.ShapeDtypeStruct((batch, kv_heads, 1, all_rows), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "parallel", "arbitrary")),
        interpret=interpret,
        name="flash_tpu",
    )(tables, operands)
    return out, lse[:, :, 0]
