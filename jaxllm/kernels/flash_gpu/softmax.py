"""Which blocks of keys the rows attend to, and the online softmax over them (Milakov & Gimelshein 2018)."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.kernels.flash_gpu.operations import Hopper, Interpreted
from jaxllm.kernels.flash_gpu.plan import ROWS, LaunchPlan
from jaxllm.kernels.spec import MIN_LSE, kv_range

HIDDEN = 10 * MIN_LSE  # a masked score: so far below `MIN_LSE`, the lowest maximum, that its weight is zero
LOG2E = math.log2(math.e)


class KeyRange(NamedTuple):
    """Blocks of keys from `start` to `stop`. Blocks before `inner` and from `edge` on are masked for some rows."""

    start: jax.Array
    inner: jax.Array
    edge: jax.Array
    stop: jax.Array

    def part(self, number: jax.Array, parts: int) -> "KeyRange":
        """Returns one of several parts of equal size; the last ones may be shorter or empty.

        The first block of each part is always masked, so that unmasked blocks can begin after it.
        """
        if parts > 1:
            share = div(jnp.maximum(self.stop - self.start, 0) + parts - 1, parts)
            start = self.start + number * share
            stop = jnp.minimum(start + share, self.stop)
        else:
            start = self.start
            stop = self.stop
        inner = jnp.clip(self.inner, start + 1, jnp.maximum(stop, start + 1))
        return KeyRange(start, inner, jnp.clip(self.edge, inner, jnp.maximum(stop, inner)), stop)


class QueryRows(NamedTuple):
    """A warpgroup's rows [R], each with its position and ALiBi slope. A row attends to keys `first` to `end` - 1."""

    first: jax.Array
    end: jax.Array
    position: jax.Array
    slope: jax.Array | None


class OnlineSoftmaxState(NamedTuple):
    """State of the online softmax.

    Attributes:
      largest: largest score of each row so far, [R].
      total: sum of each row's weights, [R].
      weights: weights of the newest block, [R S].
      left: factor of older weights, which are relative to the largest score, [R].
    """

    largest: jax.Array
    total: jax.Array
    weights: jax.Array
    left: jax.Array


@dataclass(frozen=True)
class Softmax:
    """The softmax of a plan's scores. It uses powers of two; the scores' factor contains log2(e)."""

    plan: LaunchPlan
    operations: Hopper | Interpreted

    @property
    def behind(self) -> bool:
        """Whether keys in front of a row's first visible key must be masked."""
        return self.plan.call.spec.window is not None or self.plan.call.spec.chunk is not None

    @property
    def unit(self) -> float:
        """Factor that is applied to scores inside the exponential, where it costs nothing."""
        scores = self.plan.call.spec
        if scores.softcap is None and scores.alibi is None:
            return scores.scale * LOG2E
        return 1.0

    def position(self, row: jax.Array, offset: jax.Array) -> jax.Array:
        """Returns the position of a row's query; padding rows have the position of the last query."""
        row = jnp.minimum(row, self.plan.rows - 1)
        return offset + (row if self.plan.pack == 1 else div(row, self.plan.pack))

    def span(self, row: jax.Array, offset: jax.Array, length: jax.Array) -> KeyRange:
        """Returns the blocks of keys that a block of rows attends to."""
        ends = (self.position(row + there, offset) for there in (0, self.plan.block - 1))
        (first, first_end), (last, last_end) = (kv_range(self.plan.call.spec, position, length) for position in ends)
        keys = self.plan.keys
        up = self.plan.keys - 1
        first_end = jnp.maximum(first_end, 0)
        last_end = jnp.maximum(last_end, 0)
        return KeyRange(div(first, keys), div(last + up, keys), div(first_end, keys), div(last_end + up, keys))

    def rows(self, row: jax.Array, offset: jax.Array, length: jax.Array, slopes: Any) -> QueryRows:
        """Returns a warpgroup's rows, starting at a row."""
        position = self.position(self.operations.row_index(ROWS) + row, offset)
        slope = None
        if self.plan.call.spec.alibi is not None:
            slope = self.operations.row_load(slopes) * LOG2E
        return QueryRows(*kv_range(self.plan.call.spec, position, length), position, slope)

    def first(self, scores: jax.Array, block: jax.Array, rows: QueryRows) -> OnlineSoftmaxState:
        """Returns the state after the first block."""
        lowest = self.operations.row_fill(ROWS, MIN_LSE)
        zero = self.operations.row_fill(ROWS, 0)
        return self.next(scores, block, rows, True, lowest, zero)

    def next(
        self, scores: jax.Array, block: jax.Array, rows: QueryRows, masked: bool, largest: jax.Array, total: jax.Array
    ) -> OnlineSoftmaxState:
        """Returns the state after one more block; `masked` says whether some of its scores must be masked."""
        scores = self.masked_scores(scores, block, rows)
        if masked:
            scores = jnp.where(self.mask(scores.shape, block, rows), scores, HIDDEN)
        larger = jnp.maximum(largest, scores.max(axis=1))
        weights = jnp.exp2(scores * self.unit - broadcast_rows(larger * self.unit, scores.shape))
        left = jnp.exp2((largest - larger) * self.unit)
        total = total * left + weights.sum(axis=1)
        return OnlineSoftmaxState(larger, total, weights.astype(self.plan.call.dtype), left)

    def masked_scores(self, products: jax.Array, block: jax.Array, rows: QueryRows) -> jax.Array:
        """Returns products as scores, except for `unit`."""
        spec = self.plan.call.spec
        if spec.softcap is None and spec.alibi is None:
            return products
        if spec.softcap is None:
            scores = products * (spec.scale * LOG2E)
        else:  # cap * tanh(x / cap), by functions that are fast in hardware
            root = jax.lax.rsqrt(jnp.exp2(products * (2 * LOG2E * spec.scale / spec.softcap)) + 1)
            scores = spec.softcap * LOG2E - root * root * (2 * spec.softcap * LOG2E)
        if rows.slope is not None:
            key = self.operations.index(scores.shape, 1) + block * self.plan.keys
            distance = (key - broadcast_rows(rows.position, scores.shape)).astype(jnp.float32)
            scores = scores + distance * broadcast_rows(rows.slope, scores.shape)
        return scores

    def mask(self, shape: tuple[int, ...], block: jax.Array, rows: QueryRows) -> jax.Array:
        """Returns which keys of a block each row attends to."""
        key = self.operations.index(shape, 1)
        start = block * self.plan.keys
        before_end = key < broadcast_rows(rows.end - start, shape)
        if self.behind:
            return before_end & (key >= broadcast_rows(rows.first - start, shape))
        return before_end

    def last(self, out: jax.Array, running: OnlineSoftmaxState) -> tuple[jax.Array, jax.Array]:
        """Returns outputs [R V] and log-sum-exps [R] after the last block; zeros for rows without keys."""
        some = running.total > 0
        total = jnp.where(some, running.total, 1)
        lse = jnp.where(some, running.largest * (self.unit / LOG2E) + jnp.log(total), HIDDEN)
        return (out * broadcast_rows(1 / total, out.shape)).astype(self.plan.out_dtype), lse


def broadcast_rows(rows: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Broadcasts a number for each row to a block."""
    return jax.lax.broadcast_in_dim(rows, shape, (0,))


def div(number: jax.Array, by: int) -> jax.Array:
    """Returns a quotient rounded toward zero. A Python number could become an int64 next to an int32."""
    return jax.lax.div(number, np.int32(by))


def rem(number: jax.Array, by: int) -> jax.Array:
    """Returns the remainder of `div`."""
    return jax.lax.rem(number, np.int32(by))
