"""Which blocks of keys rows see, and the running softmax over them (Milakov and Gimelshein 2018)."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.kernels.flash_gpu.operations import Hopper, Interpreted
from jaxllm.kernels.flash_gpu.plan import ROWS, Plan
from jaxllm.kernels.inputs import NOTHING, seen

HIDDEN = 10 * NOTHING  # a hidden score, so far below the lowest maximum, `NOTHING`, that its weight is zero
LOG2E = math.log2(math.e)


class Span(NamedTuple):
    """Blocks of keys from `start` to `stop`; some row does not see all of a block before `inner` or from `edge` on."""

    start: jax.Array
    inner: jax.Array
    edge: jax.Array
    stop: jax.Array

    def part(self, number: jax.Array, parts: int) -> "Span":
        """One of a few parts of the same size, the last ones shorter or empty.

        The first block of each is masked in any case, so that what is not can begin after it.
        """
        if parts > 1:
            share = div(jnp.maximum(self.stop - self.start, 0) + parts - 1, parts)
            start = self.start + number * share
            stop = jnp.minimum(start + share, self.stop)
        else:
            start, stop = self.start, self.stop
        inner = jnp.clip(self.inner, start + 1, jnp.maximum(stop, start + 1))
        return Span(start, inner, jnp.clip(self.edge, inner, jnp.maximum(stop, inner)), stop)


class Rows(NamedTuple):
    """A warpgroup's rows: the keys that each sees, from `first` to before `end`, its position, its ALiBi slope [R]."""

    first: jax.Array
    end: jax.Array
    position: jax.Array
    slope: jax.Array | None


class Running(NamedTuple):
    """The largest scores so far and the sums of weights [R]; the newest block's weights [R S], and what is left of
    older ones [R], since they are relative to the largest."""

    largest: jax.Array
    total: jax.Array
    weights: jax.Array
    left: jax.Array


@dataclass(frozen=True)
class Softmax:
    """The softmax of a plan's scores. Its exponentials are powers of two, with what that takes in the scale."""

    plan: Plan
    operations: Hopper | Interpreted

    @property
    def behind(self) -> bool:
        """Whether keys may be hidden that are behind those that are seen."""
        return self.plan.request.scores.window is not None or self.plan.request.scores.chunk is not None

    @property
    def unit(self) -> float:
        """What scores are multiplied by as late as in the exponential, where it costs nothing."""
        scores = self.plan.request.scores
        return scores.scale * LOG2E if scores.softcap is None and scores.alibi is None else 1.0

    def position(self, row: jax.Array, offset: jax.Array) -> jax.Array:
        """Where a row's query stands; rows that pad a block stand where the last query does."""
        row = jnp.minimum(row, self.plan.rows - 1)
        return offset + (row if self.plan.pack == 1 else div(row, self.plan.pack))

    def span(self, row: jax.Array, offset: jax.Array, length: jax.Array) -> Span:
        """The blocks of keys that are seen from a block of rows, since later queries see no earlier keys."""
        ends = (self.position(row + there, offset) for there in (0, self.plan.block - 1))
        (first, first_end), (last, last_end) = (seen(self.plan.request.scores, position, length) for position in ends)
        keys, up = self.plan.keys, self.plan.keys - 1
        first_end, last_end = jnp.maximum(first_end, 0), jnp.maximum(last_end, 0)
        return Span(div(first, keys), div(last + up, keys), div(first_end, keys), div(last_end + up, keys))

    def rows(self, row: jax.Array, offset: jax.Array, length: jax.Array, slopes: Any) -> Rows:
        """A warpgroup's rows, from a row on."""
        position = self.position(self.operations.row_index(ROWS) + row, offset)
        slope = None if self.plan.request.scores.alibi is None else self.operations.row_load(slopes) * LOG2E
        return Rows(*seen(self.plan.request.scores, position, length), position, slope)

    def first(self, scores: jax.Array, block: jax.Array, rows: Rows) -> Running:
        """The softmax of one block."""
        lowest, zero = self.operations.row_fill(ROWS, NOTHING), self.operations.row_fill(ROWS, 0)
        return self.next(scores, block, rows, True, lowest, zero)

    def next(
        self, scores: jax.Array, block: jax.Array, rows: Rows, masked: bool, largest: jax.Array, total: jax.Array
    ) -> Running:
        """The softmax with one more block's scores, and where `masked`, only with those that count."""
        scores = self.scored(scores, block, rows)
        if masked:
            scores = jnp.where(self.visible(scores.shape, block, rows), scores, HIDDEN)
        larger = jnp.maximum(largest, scores.max(axis=1))
        weights = jnp.exp2(scores * self.unit - across(larger * self.unit, scores.shape))
        left = jnp.exp2((largest - larger) * self.unit)
        total = total * left + weights.sum(axis=1)
        return Running(larger, total, weights.astype(self.plan.request.dtype), left)

    def scored(self, products: jax.Array, block: jax.Array, rows: Rows) -> jax.Array:
        """Products as scores, but for `unit`."""
        part = self.plan.request.scores
        if part.softcap is None and part.alibi is None:
            return products
        if part.softcap is None:
            scores = products * (part.scale * LOG2E)
        else:  # cap * tanh(x / cap), by functions that the processor is good at
            root = jax.lax.rsqrt(jnp.exp2(products * (2 * LOG2E * part.scale / part.softcap)) + 1)
            scores = part.softcap * LOG2E - root * root * (2 * part.softcap * LOG2E)
        if rows.slope is not None:
            key = self.operations.index(scores.shape, 1) + block * self.plan.keys
            distance = (key - across(rows.position, scores.shape)).astype(jnp.float32)
            scores = scores + distance * across(rows.slope, scores.shape)
        return scores

    def visible(self, shape: tuple[int, ...], block: jax.Array, rows: Rows) -> jax.Array:
        """Which keys of a block each row sees."""
        key, start = self.operations.index(shape, 1), block * self.plan.keys
        before_end = key < across(rows.end - start, shape)
        return before_end & (key >= across(rows.first - start, shape)) if self.behind else before_end

    def last(self, out: jax.Array, running: Running) -> tuple[jax.Array, jax.Array]:
        """Outputs [R V] and logarithms [R] of what is left when all blocks are in; rows that saw nothing are zero."""
        some = running.total > 0
        total = jnp.where(some, running.total, 1)
        lse = jnp.where(some, running.largest * (self.unit / LOG2E) + jnp.log(total), HIDDEN)
        return (out * across(1 / total, out.shape)).astype(self.plan.out_dtype), lse


def across(rows: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A number for each row as a block."""
    return jax.lax.broadcast_in_dim(rows, shape, (0,))


def div(number: jax.Array, by: int) -> jax.Array:
    """A quotient rounded to zero; a Python number would be an int64 next to an int32 where there are such."""
    return jax.lax.div(number, np.int32(by))


def rem(number: jax.Array, by: int) -> jax.Array:
    """What is left of such a quotient."""
    return jax.lax.rem(number, np.int32(by))
