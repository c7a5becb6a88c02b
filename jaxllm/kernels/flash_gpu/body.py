"""The kernel: what each warpgroup of a thread block computes.

One warpgroup copies blocks of keys and values to shared memory, up to `depth` blocks ahead. The others process 64 query
rows each with an online softmax (Milakov & Gimelshein 2018) over those blocks, as in Shah et al. 2024: the products of
the next block's scores and of this block's outputs run while the next block's softmax is computed. Two warpgroups take
turns at the tensor cores, so that one computes its softmax during the other's products.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxllm.kernels.flash_gpu.operations import Hopper, Interpreted, ScoreAndOutput
from jaxllm.kernels.flash_gpu.plan import ROWS, LaunchPlan
from jaxllm.kernels.flash_gpu.softmax import KeyRange, OnlineSoftmaxState, QueryRows, Softmax, broadcast_rows, div, rem
from jaxllm.kernels.spec import MIN_LSE


class SharedMemory(NamedTuple):
    """Shared memory of a thread block, and its barriers.

    Queries [W 64 H] of W warpgroups, D blocks of keys [D S H] and values [D S V], log-sum-exps [W 64], and outputs
    [W 64 V] unless they reuse the memory of the queries. A barrier signals that a copy has arrived, that all warpgroups
    have released a block (`free`), or that it is a warpgroup's turn.
    """

    query: Any
    key: Any
    value: Any
    lse: Any
    query_come: Any
    key_come: Any
    value_come: Any
    key_free: Any
    value_free: Any
    turn: Any
    out: Any = None


class GlobalMemory(NamedTuple):
    """Arrays that the kernel reads and writes, for X splits of the keys.

    Query [B R N H], key [B K S H], value [B K S V], offsets and lengths [B], slopes [N R] (64 rows if all are of one
    head); out [X B R N V] and lse [X B N R].
    """

    query: Any
    key: Any
    value: Any
    offsets: Any
    lengths: Any
    slopes: Any
    out: Any
    lse: Any


@dataclass(frozen=True)
class Body:
    """The body of the kernel for a plan."""

    plan: LaunchPlan
    softmax: Softmax
    operations: Hopper | Interpreted

    def __call__(self, given: GlobalMemory, memory: SharedMemory) -> None:
        """Runs one warpgroup, which computes or copies depending on its index."""
        plan = self.plan
        batch, part, head, block, group = map(jax.lax.axis_index, ("batch", "split", "head", "block", "warpgroup"))
        block = plan.blocks - 1 - block  # later blocks of causal queries take longer: they start first
        offset = given.offsets[batch]
        length = given.lengths[batch]
        span = self.softmax.span(block * plan.block, offset, length).part(part, plan.splits)

        @pl.when(group < plan.warpgroups)
        def _compute() -> None:
            self.registers("increase")
            row = block * plan.block + group * ROWS
            slopes = given.slopes.at[head, pl.ds(row if plan.pack > 1 else 0, ROWS)]
            plgpu.copy_gmem_to_smem(
                given.query.at[batch, pl.ds(row, ROWS), head], memory.query.at[group], memory.query_come.at[group]
            )
            plgpu.barrier_wait(memory.query_come.at[group])
            out = (memory.query if memory.out is None else memory.out).at[group]
            lse = memory.lse.at[group]

            @pl.when(span.start < span.stop)
            def _attend() -> None:
                rows = self.softmax.rows(row, offset, length, slopes)
                out[...], lse[...] = self.attend(memory, group, span, rows)

            @pl.when(span.start >= span.stop)
            def _see_nothing() -> None:
                out[...] = self.operations.fill(out.shape, 0).astype(out.dtype)
                lse[...] = self.operations.row_fill(ROWS, 10 * MIN_LSE)

            plgpu.commit_smem()
            stored, there = (pl.ds(start, plan.stored) for start in (0, row))
            plgpu.copy_smem_to_gmem(out.at[stored], given.out.at[part, batch, there, head])
            plgpu.copy_smem_to_gmem(lse.at[stored], given.lse.at[part, batch, head, there])
            plgpu.wait_smem_to_gmem(0)

        @pl.when(group == plan.warpgroups)
        def _copy() -> None:
            self.registers("decrease")
            kv_head = div(head, plan.heads // plan.call.kv_heads)
            self.copy(given.key.at[batch, kv_head], given.value.at[batch, kv_head], memory, span)

    def registers(self, action: Literal["increase", "decrease"]) -> None:
        """Moves registers from the copying warpgroup to two computing ones; a single one has as many as it can use."""
        if self.plan.warpgroups > 1:
            plgpu.set_max_registers(self.plan.registers[action == "decrease"], action=action)

    def copy(self, key: Any, value: Any, memory: SharedMemory, key_range: KeyRange) -> None:
        """Copies a range of keys [S H] and values [S V], each block as soon as there is room."""
        plan = self.plan
        streams = (
            (key, memory.key, memory.key_come, memory.key_free),
            (value, memory.value, memory.value_come, memory.value_free),
        )

        @pl.loop(key_range.start, key_range.stop + plan.depth)
        def _block(block: jax.Array) -> None:
            slot = rem(block - key_range.start, plan.depth)
            for source, target, come, free in streams:

                @pl.when(block >= key_range.start + plan.depth)
                def _wait(free: Any = free) -> None:
                    plgpu.barrier_wait(free.at[slot])

                @pl.when(block < key_range.stop)
                def _bring(source: Any = source, target: Any = target, come: Any = come) -> None:
                    there = source.at[pl.ds(block * plan.keys, plan.keys)]
                    plgpu.copy_gmem_to_smem(there, target.at[slot], come.at[slot])

    def attend(
        self, memory: SharedMemory, group: jax.Array, key_range: KeyRange, rows: QueryRows
    ) -> tuple[jax.Array, jax.Array]:
        """Returns outputs [64 V] and log-sum-exps [64] of a warpgroup's rows for a range of at least one block."""
        plan = self.plan
        softmax = self.softmax
        operations = self.operations
        query = memory.query.at[group]
        plgpu.barrier_wait(memory.key_come.at[0])
        scores = operations.score(query, memory.key.at[0])
        plgpu.barrier_arrive(memory.key_free.at[0])
        carry = operations.fill((ROWS, plan.call.value_dim), 0), softmax.first(scores, key_range.start, rows)
        if plan.warpgroups == 2:
            pl.when(group == 1)(lambda: plgpu.barrier_arrive(memory.turn.at[0]))
        edges = [(key_range.inner, key_range.edge, False), (key_range.edge, key_range.stop, True)]
        if softmax.behind:
            edges.insert(0, (key_range.start + 1, key_range.inner, True))
        for start, stop, masked in edges:
            step = partial(self.step, memory, group, query, key_range.start, rows, masked)
            carry = jax.lax.fori_loop(start, stop, step, carry)
        if plan.warpgroups == 2:
            pl.when(group == 0)(lambda: plgpu.barrier_wait(memory.turn.at[0]))
        out, running = carry
        slot = rem(key_range.stop - 1 - key_range.start, plan.depth)
        plgpu.barrier_wait(memory.value_come.at[slot])
        out = operations.mix(out, running.weights, memory.value.at[slot])
        plgpu.barrier_arrive(memory.value_free.at[slot])
        return softmax.last(out, running)

    def step(
        self,
        memory: SharedMemory,
        group: Any,
        query: Any,
        start: Any,
        rows: QueryRows,
        masked: bool,
        block: Any,
        carry: tuple,
    ) -> tuple[jax.Array, OnlineSoftmaxState]:
        """Multiplies the previous block's weights by its values, and computes the current block's weights."""
        plan = self.plan
        (out, running) = carry
        slot, before = (rem(number - start, plan.depth) for number in (block, block - 1))
        plgpu.barrier_wait(memory.key_come.at[slot])
        plgpu.barrier_wait(memory.value_come.at[before])
        if plan.warpgroups == 2:
            plgpu.barrier_wait(memory.turn.at[group])

        def issued() -> None:
            if plan.warpgroups == 2:
                plgpu.barrier_arrive(memory.turn.at[1 - group])

        def soften(scores: jax.Array, running: OnlineSoftmaxState) -> OnlineSoftmaxState:
            plgpu.barrier_arrive(memory.key_free.at[slot])
            return self.softmax.next(scores, block, rows, masked, running.largest, running.total)

        out, running = self.operations.score_and_mix(
            query,
            memory.key.at[slot],
            out,
            running.weights,
            memory.value.at[before],
            running,
            ScoreAndOutput(issued, soften),
        )
        plgpu.barrier_arrive(memory.value_free.at[before])
        return out * broadcast_rows(running.left, out.shape), running
