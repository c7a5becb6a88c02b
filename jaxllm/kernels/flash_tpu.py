"""Flash attention for TPUs (Dao et al. 2022), in Pallas: one kernel for prefill and decode.

The queries of a key-value head are packed into rows, [B K T*G H] with G = N // K, so that a key is read once for all
heads that share it. A query sees one range of keys, whatever hides the others: blocks of keys outside of the ranges of
a block of rows are neither copied nor computed, and those inside of all of them are not masked.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxllm.kernels.flash_tpu_body import Operands, Plan, Running, Tables, body, floor_div, key_axis
from jaxllm.kernels.inputs import Inputs, Mixed, Scores
from jaxllm.kernels.request import Device, Request


@dataclass(frozen=True)
class Blocks:
    """How many packed rows and keys are computed at a time, and keys where at most `few` rows leave room for more.

    Heads larger than `wide` get half as many keys. All are multiples of 128, the lanes of a register.
    """

    rows: int = 512
    keys: int = 1024
    few: int = 128
    keys_of_few: int = 2048
    wide: int = 128

    def of(self, rows: int, head_dim: int) -> tuple[int, int]:
        """Rows and keys of a block, for so many rows in all and that head size."""
        keys = self.keys_of_few if rows <= self.few else self.keys
        return self.rows, keys // (2 if head_dim > self.wide else 1)


def refusal(request: Request, device: Device) -> str | None:
    """Why a call cannot be served by `flash_tpu` on such a device, or None."""
    alibi = request.scores.alibi
    reasons = {
        f"it runs on TPUs, not on {device.platform}": device.platform != "tpu",
        f"TPUs multiply bfloat16 and float32, not {request.dtype}": request.dtype not in (jnp.bfloat16, jnp.float32),
        "it has no ALiBi that is rounded to bfloat16": alibi is not None and alibi.bfloat16,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def flash_tpu(inputs: Inputs, scores: Scores, *, blocks: Blocks | None = None, interpret: Any = False) -> Mixed:
    """Attention of query [B T N H] on key [B S K H] and value [B S K V] on a TPU, or interpreted on the CPU.

    It reads keys as [B K S H], in the layout that XLA gives them: of a cache that stores them so nothing is copied.
    `interpret` is `pallas_call`'s.
    """
    batch, queries, heads, head_dim = inputs.query.shape
    _, all_keys, kv_heads, _ = inputs.key.shape
    groups = heads // kv_heads
    value_dim = (scores.value_dim or head_dim) if inputs.value is None else inputs.value.shape[-1]
    rows, keys = (blocks or Blocks()).of(queries * groups, head_dim)
    plan = Plan(scores, min(rows, queries * groups), min(keys, all_keys), groups, all_keys, value_dim)
    out, lse = _call(_operands(inputs, scores), _tables(inputs, plan), plan, interpret)
    out = out.reshape(batch, kv_heads, queries, groups, -1).transpose(0, 2, 1, 3, 4)
    lse = lse.reshape(batch, kv_heads, queries, groups).transpose(0, 2, 1, 3)
    return Mixed(out.reshape(batch, queries, heads, -1), lse.reshape(batch, queries, heads))


def _operands(inputs: Inputs, scores: Scores) -> Operands:
    """The inputs, as the kernel reads them."""
    batch, queries, _, head_dim = inputs.query.shape
    kv_heads = inputs.key.shape[2]
    query = inputs.query.reshape(batch, queries, kv_heads, -1, head_dim).transpose(0, 2, 1, 3, 4)

    def by_head(array):
        return None if array is None else jnp.moveaxis(array, 1, 2 + key_axis(array.shape[-1]))

    scales = (None if scale is None else scale[..., None] for scale in (inputs.key_scale, inputs.value_scale))
    return Operands(
        query.reshape(batch, kv_heads, -1, head_dim),
        *map(by_head, (inputs.key, inputs.value, *scales)),
        slopes=None if scores.alibi is None else jnp.asarray(scores.alibi.slopes, jnp.float32),
        sinks=None if inputs.sinks is None else inputs.sinks.astype(jnp.float32),
    )


def _tables(inputs: Inputs, plan: Plan) -> Tables:
    """Which keys each block of rows sees."""
    batch, queries = inputs.query.shape[:2]
    offset = jnp.zeros(batch, jnp.int32) if inputs.offsets is None else inputs.offsets
    length = jnp.full(batch, plan.all_keys, jnp.int32) if inputs.lengths is None else inputs.lengths
    start = jnp.arange(0, queries * plan.groups, plan.rows, dtype=jnp.int32)
    end = jnp.minimum(start + plan.rows, queries * plan.groups) - 1
    low, all_high = plan.span(offset[:, None] + floor_div(start, plan.groups), length[:, None])
    all_low, high = plan.span(offset[:, None] + floor_div(end, plan.groups), length[:, None])
    first = jnp.minimum(floor_div(low, plan.keys), pl.cdiv(plan.all_keys, plan.keys) - 1)
    last = floor_div(high - 1, plan.keys)
    shape = batch, len(start)
    return Tables(offset, length, *(jnp.broadcast_to(x, shape).reshape(-1) for x in (first, last, all_low, all_high)))


def _call(operands: Operands, tables: Tables, plan: Plan, interpret: Any) -> tuple[jax.Array, jax.Array]:
    """Out [B K T*G V] and lse [B K T*G], over a grid of batch, key-value heads, blocks of rows and blocks of keys.

    There are as many blocks of keys as the longest range needs, not as the cache has.
    """
    batch, kv_heads, all_rows, head_dim = operands.query.shape
    grid = batch, kv_heads, pl.cdiv(all_rows, plan.rows), 1
    if plan.keys < plan.all_keys:
        grid = *grid[:3], jnp.maximum(jnp.max(tables.last - tables.first) + 1, 1)

    def block(b, i, j, tables):
        first, last = (table[b * grid[2] + i] for table in (tables.first, tables.last))
        return jnp.minimum(first + j, jnp.maximum(first, last))  # the same as before is not copied again

    def of_keys(dim):
        shape, axis = [None, None, dim, dim], 2 + key_axis(dim)
        shape[axis] = plan.keys
        return pl.BlockSpec(
            shape, lambda b, k, i, j, tables: (b, k, *(block(b, i, j, tables) * (a == axis) for a in (2, 3)))
        )

    of_rows = partial(pl.BlockSpec, index_map=lambda b, k, i, j, tables: (b, k, i, 0))
    query, head = of_rows((None, None, plan.rows, head_dim)), pl.BlockSpec(memory_space=pltpu.SMEM)
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
            scratch_shapes=[Running(column, column, mixed, None if operands.slopes is None else column)],
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
