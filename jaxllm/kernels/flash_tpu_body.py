"""The body of `flash_tpu`: one block of packed rows and one block of keys."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from jaxllm.kernels.spec import MIN_LSE, AttentionSpec, kv_range, softcap


class Tables(NamedTuple):
    """What is known before a block is copied, for each row of the batch [B] or block of packed rows [B * blocks].

    The rows of a block attend to key blocks from `first` to `last`; all of them attend to the keys from `low` to
    `high`.
    """

    offset: Any
    length: Any
    first: Any
    last: Any
    low: Any
    high: Any


class Operands(NamedTuple):
    """Arrays, their blocks, or their block specs; None where there is none."""

    query: Any  # [B K T*G H]
    key: Any  # [B K S H] or [B K H S], by `key_axis`
    value: Any  # [B K S V] or [B K V S]
    key_scale: Any  # [B K 1 S]
    value_scale: Any  # [B K 1 S]
    slopes: Any  # [N]
    sinks: Any  # [N]


class SoftmaxState(NamedTuple):
    """State of the online softmax between blocks of keys, and the slopes of the rows' heads if there are any."""

    top: Any  # [rows 1]
    total: Any  # [rows 1]
    mixed: Any  # [rows V]
    slope: Any  # [rows 1]


@dataclass(frozen=True)
class TPULaunchPlan:
    """What is known at compile time: rows and keys of a block, queries per key, number of keys, and V."""

    spec: AttentionSpec
    rows: int
    keys: int
    groups: int
    all_keys: int
    value_dim: int

    def key_range(self, position: Any, length: Any) -> tuple[Any, Any]:
        """Returns the first key that a query at a position attends to, and the one after the last."""
        return kv_range(self.spec, position, jnp.minimum(length, self.all_keys))


def body(tables: Tables, operands: Operands, out: Any, lse: Any, running: SoftmaxState, *, plan: TPULaunchPlan) -> None:
    """Processes one block of keys for one block of rows; writes out [rows V] and lse [1 rows] after the last one."""
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
        running.top[...] = jnp.full_like(running.top, MIN_LSE) if operands.sinks is None else by_head(operands.sinks)
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
        top = running.top[...]
        total = running.total[...]
        out[...] = (running.mixed[...] / jnp.where(total == 0, 1, total)).astype(out.dtype)
        lse[...] = jnp.where(total == 0, MIN_LSE, top + jnp.log(total)).T


def _step(
    position: Any, start: Any, operands: Operands, running: SoftmaxState, plan: TPULaunchPlan, length: Any
) -> None:
    """Adds the keys from `start` on to the softmax of queries at positions [rows 1]; `length` masks some of them."""
    key_at = start + _iota(plan.keys, 1)
    value_scale = operands.value_scale
    query = operands.query[...]
    key = operands.key[...].astype(operands.query.dtype)
    axis = key_axis(query.shape[1])
    products = _products(query, key, operands.key_scale, plan.spec, axis)
    if operands.value is None:
        value = key[:, : plan.value_dim] if axis == 0 else key[: plan.value_dim]
    else:
        value = operands.value[...].astype(query.dtype)
        axis = key_axis(plan.value_dim)
    if plan.spec.alibi is not None:
        distance = (key_at - position).astype(jnp.float32)
        products = products + running.slope[...] * distance * plan.spec.alibi.scale
    if length is not None:
        low, high = plan.key_range(position, length)
        products = jnp.where((key_at >= low) & (key_at < high), products, 10 * MIN_LSE)
    if (
        length is not None and plan.all_keys % plan.keys
    ):  # values beyond the last key may be NaN, and zero times NaN is NaN
        value = jnp.where(start + _iota(plan.keys, axis) < plan.all_keys, value, 0)
        if value_scale is not None:
            value_scale = jnp.where(key_at < plan.all_keys, value_scale[...], 0)
    top = jnp.maximum(running.top[...], jnp.max(products, axis=1, keepdims=True))
    shrink = jnp.exp(running.top[...] - top)
    weights = jnp.exp(products - top)
    running.top[...] = top
    running.total[...] = shrink * running.total[...] + jnp.sum(weights, axis=1, keepdims=True)
    if value_scale is not None:
        weights = weights * value_scale[...]
    running.mixed[...] = shrink * running.mixed[...] + _dot(weights.astype(query.dtype), value, axis)


def _products(query: Any, key: Any, key_scale: Any, spec: AttentionSpec, axis: int) -> Any:
    """Returns the scores, float32 [rows keys], of queries [rows H], scaled [1 keys] and capped."""
    products = _dot(query, key, 1 - axis) * (spec.scale if key_scale is None else key_scale[...] * spec.scale)
    if spec.softcap is None:
        return products
    return softcap(products, spec.softcap)


def _dot(left: Any, right: Any, axis: int) -> Any:
    """Contracts the last axis of `left` with an axis of `right` in float32, exactly if they are float32."""
    precision = None
    if left.dtype == jnp.float32:
        precision = jax.lax.Precision.HIGHEST
    numbers = (((1,), (axis,)), ((), ()))
    return jax.lax.dot_general(left, right, numbers, precision=precision, preferred_element_type=jnp.float32)


def _by_head(values: Any, *, row: Any, head: Any, groups: int) -> Any:
    """Returns for each packed row [rows 1] the value of its head in values [N], for heads from `head` on."""
    group = row - floor_div(row, groups) * groups
    found = jnp.full(row.shape, values[head])
    for other in range(1, groups):
        found = jnp.where(group == other, values[head + other], found)
    return found


def _iota(size: int, axis: int) -> Any:
    """Returns indices along one axis of two; the other has size 1."""
    return jax.lax.broadcasted_iota(jnp.int32, (size, 1) if axis == 0 else (1, size), axis)


def key_axis(dim: int) -> int:
    """Returns which axis of a block is the keys': 1 if head dimensions would leave some of the 128 lanes empty, else 0.

    XLA lays out a cache [B K S H] on a TPU in the same way, and would copy it to any other layout.
    """
    if dim % 128 == 0:
        return 0
    return 1


def floor_div(x: Any, size: int) -> Any:
    """Returns x // size, int32. The operator would ask for this process's chip, which may not be the target."""
    if size == 1:
        return x
    return jax.lax.div(x - jnp.where(x < 0, size - 1, 0), jnp.int32(size))
