"""What `flash_tpu` runs on a TPU for each block of packed rows and keys."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from jaxllm.kernels.inputs import NOTHING, Scores, seen, softcap


class Tables(NamedTuple):
    """Known before a block is copied: of each row of the batch [B], and of each block of packed rows [B * blocks].

    Its rows see into the key blocks from `first` to `last`; all of them see the keys from `low` to before `high`.
    """

    offset: Any
    length: Any
    first: Any
    last: Any
    low: Any
    high: Any


class Operands(NamedTuple):
    """Arrays, or blocks of them, or how they are cut into blocks; absent ones are None."""

    query: Any  # [B K T*G H]
    key: Any  # [B K S H] or [B K H S], by `key_axis`
    value: Any  # [B K S V] or [B K V S]
    key_scale: Any  # [B K 1 S]
    value_scale: Any  # [B K 1 S]
    slopes: Any  # [N]
    sinks: Any  # [N]


class Running(NamedTuple):
    """What is kept from one block of keys to the next: the online softmax, and slopes of the rows' heads if any."""

    top: Any  # [rows 1]
    total: Any  # [rows 1]
    mixed: Any  # [rows V]
    slope: Any  # [rows 1]


@dataclass(frozen=True)
class Plan:
    """What is known when it is compiled: rows and keys of a block, queries to a key, keys in all, and V."""

    scores: Scores
    rows: int
    keys: int
    groups: int
    all_keys: int
    value_dim: int

    def span(self, position: Any, length: Any) -> tuple[Any, Any]:
        """The first key that a query at that position of a row so long sees, and the one after the last."""
        return seen(self.scores, position, jnp.minimum(length, self.all_keys))


def body(tables: Tables, operands: Operands, out: Any, lse: Any, running: Running, *, plan: Plan) -> None:
    """One block of keys, for one block of rows of one key-value head: out [rows V], lse [1 rows] after the last."""
    b, k, i, j = (pl.program_id(axis) for axis in range(4))
    at = b * pl.num_programs(2) + i
    row = i * plan.rows + _iota(plan.rows, 0)
    block = tables.first[at] + j
    start = block * plan.keys
    seen_by_some = block <= tables.last[at]
    seen_by_all = (start >= tables.low[at]) & (start + plan.keys <= tables.high[at])
    step = partial(_step, tables.offset[b] + floor_div(row, plan.groups), start, operands, running, plan)

    @pl.when(j == 0)
    def _():
        by_head = partial(_by_head, row=row, head=k * plan.groups, groups=plan.groups)
        running.top[...] = jnp.full_like(running.top, NOTHING) if operands.sinks is None else by_head(operands.sinks)
        running.total[...] = jnp.full_like(running.total, 0 if operands.sinks is None else 1)
        running.mixed[...] = jnp.zeros_like(running.mixed)
        if operands.slopes is not None:
            running.slope[...] = by_head(operands.slopes)

    @pl.when(seen_by_some & seen_by_all)
    def _():
        step(None)

    @pl.when(seen_by_some & ~seen_by_all)
    def _():
        step(tables.length[b])

    @pl.when(j == pl.num_programs(3) - 1)
    def _():
        top, total = running.top[...], running.total[...]
        out[...] = (running.mixed[...] / jnp.where(total == 0, 1, total)).astype(out.dtype)
        lse[...] = jnp.where(total == 0, NOTHING, top + jnp.log(total)).T


def _step(position: Any, start: Any, operands: Operands, running: Running, plan: Plan, length: Any) -> None:
    """Takes keys from `start` into the softmax of queries at [rows 1]: all, or those that a row so long shows them."""
    key_at, value_scale = start + _iota(plan.keys, 1), operands.value_scale
    query, key = operands.query[...], operands.key[...].astype(operands.query.dtype)
    axis = key_axis(query.shape[1])
    products = _products(query, key, operands.key_scale, plan.scores, axis)
    if operands.value is None:
        value = key[:, : plan.value_dim] if axis == 0 else key[: plan.value_dim]
    else:
        value, axis = operands.value[...].astype(query.dtype), key_axis(plan.value_dim)
    if plan.scores.alibi is not None:
        distance = (key_at - position).astype(jnp.float32)
        products = products + running.slope[...] * distance * plan.scores.alibi.scale
    if length is not None:
        low, high = plan.span(position, length)
        products = jnp.where((key_at >= low) & (key_at < high), products, 10 * NOTHING)
    if length is not None and plan.all_keys % plan.keys:  # past the last key may be NaN, which times zero is NaN
        value = jnp.where(start + _iota(plan.keys, axis) < plan.all_keys, value, 0)
        if value_scale is not None:
            value_scale = jnp.where(key_at < plan.all_keys, value_scale[...], 0)
    top = jnp.maximum(running.top[...], jnp.max(products, axis=1, keepdims=True))
    shrink, weights = jnp.exp(running.top[...] - top), jnp.exp(products - top)
    running.top[...] = top
    running.total[...] = shrink * running.total[...] + jnp.sum(weights, axis=1, keepdims=True)
    if value_scale is not None:
        weights = weights * value_scale[...]
    running.mixed[...] = shrink * running.mixed[...] + _dot(weights.astype(query.dtype), value, axis)


def _products(query: Any, key: Any, key_scale: Any, scores: Scores, axis: int) -> Any:
    """Of queries [rows H] with keys along that axis, scaled [1 keys] and capped, float32 [rows keys]."""
    products = _dot(query, key, 1 - axis) * (scores.scale if key_scale is None else key_scale[...] * scores.scale)
    return products if scores.softcap is None else softcap(products, scores.softcap)


def _dot(left: Any, right: Any, axis: int) -> Any:
    """Of left's last axis with that axis of right, in float32, and exact to it where they are float32."""
    precision = jax.lax.Precision.HIGHEST if left.dtype == jnp.float32 else None
    numbers = (((1,), (axis,)), ((), ()))
    return jax.lax.dot_general(left, right, numbers, precision=precision, preferred_element_type=jnp.float32)


def _by_head(values: Any, *, row: Any, head: Any, groups: int) -> Any:
    """What the head of each packed row [rows 1] has of values [N], where heads from `head` on share the rows."""
    group, found = row - floor_div(row, groups) * groups, jnp.full(row.shape, values[head])
    for other in range(1, groups):
        found = jnp.where(group == other, values[head + other], found)
    return found


def _iota(size: int, axis: int) -> Any:
    """Counts along one axis of two; the other is 1."""
    return jax.lax.broadcasted_iota(jnp.int32, (size, 1) if axis == 0 else (1, size), axis)


def key_axis(dim: int) -> int:
    """Which axis of a block its keys are: 0, or 1 where their dimensions would leave some of 128 lanes empty.

    XLA lays out a cache [B K S H] on a TPU in the same way, and would copy it to any other.
    """
    return 0 if dim % 128 == 0 else 1


def floor_div(x: Any, size: int) -> Any:
    """x // size, int32: `//` itself would ask what chip this process has, and it may compile for another."""
    return x if size == 1 else jax.lax.div(x - jnp.where(x < 0, size - 1, 0), jnp.int32(size))
