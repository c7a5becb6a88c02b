"""The kernel itself: what each warpgroup of a thread block does.

One warpgroup copies blocks of keys and values to shared memory, `depth` of them ahead. The others take 64 query rows
each and keep a running softmax (Milakov and Gimelshein 2018) over those blocks, in the manner of Shah et al. 2024:
the next block's scores and this one's outputs are multiplied while the next block's softmax is computed, and two
warpgroups take turns at the tensor cores, so that one's softmax hides behind the other's products.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxllm.kernels.flash_gpu.operations import Hopper, Interpreted, Step
from jaxllm.kernels.flash_gpu.plan import ROWS, Plan
from jaxllm.kernels.flash_gpu.softmax import Rows, Running, Softmax, Span, across, div, rem
from jaxllm.kernels.inputs import NOTHING


class Memory(NamedTuple):
    """Shared memory of a thread block, and its barriers.

    Queries [W 64 H] of W warpgroups, D keys [D S H] and values [D S V] in flight, logarithms [W 64], and outputs
    [W 64 V] where they do not go over the queries. A barrier is passed when something has come, when all warpgroups
    have done with it (`free`), or when it is a warpgroup's turn.
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


class Global(NamedTuple):
    """What the kernel reads and writes, for X splits of the keys.

    Query [B R N H], key [B K S H] and value [B K S V], offsets and lengths [B], slopes [N R] (of 64 rows, where all
    are of one head); out [X B R N V] and lse [X B N R].
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

    plan: Plan
    softmax: Softmax
    operations: Hopper | Interpreted

    def __call__(self, given: Global, memory: Memory) -> None:
        """What a warpgroup does, by its number: compute, or copy for those that do."""
        plan = self.plan
        batch, part, head, block, group = map(jax.lax.axis_index, ("batch", "split", "head", "block", "warpgroup"))
        block = plan.blocks - 1 - block  # the later a causal block's queries, the longer it takes: longest first
        offset, length = given.offsets[batch], given.lengths[batch]
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
            out, lse = (memory.query if memory.out is None else memory.out).at[group], memory.lse.at[group]

            @pl.when(span.start < span.stop)
            def _attend() -> None:
                rows = self.softmax.rows(row, offset, length, slopes)
                out[...], lse[...] = self.attend(memory, group, span, rows)

            @pl.when(span.start >= span.stop)
            def _see_nothing() -> None:
                out[...] = self.operations.fill(out.shape, 0).astype(out.dtype)
                lse[...] = self.operations.row_fill(ROWS, 10 * NOTHING)

            plgpu.commit_smem()
            stored, there = (pl.ds(start, plan.stored) for start in (0, row))
            plgpu.copy_smem_to_gmem(out.at[stored], given.out.at[part, batch, there, head])
            plgpu.copy_smem_to_gmem(lse.at[stored], given.lse.at[part, batch, head, there])
            plgpu.wait_smem_to_gmem(0)

        @pl.when(group == plan.warpgroups)
        def _copy() -> None:
            self.registers("decrease")
            kv_head = div(head, plan.heads // plan.request.kv_heads)
            self.copy(given.key.at[batch, kv_head], given.value.at[batch, kv_head], memory, span)

    def registers(self, action: Literal["increase", "decrease"]) -> None:
        """Moves registers from the warpgroup that copies to two that compute; one has all it can use."""
        if self.plan.warpgroups > 1:
            plgpu.set_max_registers(self.plan.registers[action == "decrease"], action=action)

    def copy(self, key: Any, value: Any, memory: Memory, span: Span) -> None:
        """Brings a span of key [S H] and value [S V], block after block, as soon as there is room."""
        plan = self.plan
        streams = (
            (key, memory.key, memory.key_come, memory.key_free),
            (value, memory.value, memory.value_come, memory.value_free),
        )

        @pl.loop(span.start, span.stop + plan.depth)
        def _block(block: jax.Array) -> None:
            slot = rem(block - span.start, plan.depth)
            for source, target, come, free in streams:

                @pl.when(block >= span.start + plan.depth)
                def _wait(free: Any = free) -> None:
                    plgpu.barrier_wait(free.at[slot])

                @pl.when(block < span.stop)
                def _bring(source: Any = source, target: Any = target, come: Any = come) -> None:
                    there = source.at[pl.ds(block * plan.keys, plan.keys)]
                    plgpu.copy_gmem_to_smem(there, target.at[slot], come.at[slot])

    def attend(self, memory: Memory, group: jax.Array, span: Span, rows: Rows) -> tuple[jax.Array, jax.Array]:
        """Outputs [64 V] and logarithms [64] of a warpgroup's rows for a span of at least one block."""
        plan, softmax, operations = self.plan, self.softmax, self.operations
        query = memory.query.at[group]
        plgpu.barrier_wait(memory.key_come.at[0])
        scores = operations.score(query, memory.key.at[0])
        plgpu.barrier_arrive(memory.key_free.at[0])
        carry = operations.fill((ROWS, plan.request.value_dim), 0), softmax.first(scores, span.start, rows)
        if plan.warpgroups == 2:
            pl.when(group == 1)(lambda: plgpu.barrier_arrive(memory.turn.at[0]))
        edges = [(span.inner, span.edge, False), (span.edge, span.stop, True)]
        if softmax.behind:
            edges.insert(0, (span.start + 1, span.inner, True))
        for start, stop, masked in edges:
            step = partial(self.step, memory, group, query, span.start, rows, masked)
            carry = jax.lax.fori_loop(start, stop, step, carry)
        if plan.warpgroups == 2:
            pl.when(group == 0)(lambda: plgpu.barrier_wait(memory.turn.at[0]))
        out, running = carry
        slot = rem(span.stop - 1 - span.start, plan.depth)
        plgpu.barrier_wait(memory.value_come.at[slot])
        out = operations.mix(out, running.weights, memory.value.at[slot])
        plgpu.barrier_arrive(memory.value_free.at[slot])
        return softmax.last(out, running)

    def step(
        self, memory: Memory, group: Any, query: Any, start: Any, rows: Rows, masked: bool, block: Any, carry: tuple
    ) -> tuple[jax.Array, Running]:
        """Mixes the values of the block before, and makes weights of a block's scores."""
        plan, (out, running) = self.plan, carry
        slot, before = (rem(number - start, plan.depth) for number in (block, block - 1))
        plgpu.barrier_wait(memory.key_come.at[slot])
        plgpu.barrier_wait(memory.value_come.at[before])
        if plan.warpgroups == 2:
            plgpu.barrier_wait(memory.turn.at[group])

        def issued() -> None:
            if plan.warpgroups == 2:
                plgpu.barrier_arrive(memory.turn.at[1 - group])

        def soften(scores: jax.Array, running: Running) -> Running:
            plgpu.barrier_arrive(memory.key_free.at[slot])
            return self.softmax.next(scores, block, rows, masked, running.largest, running.total)

        out, running = self.operations.score_and_mix(
            query, memory.key.at[slot], out, running.weights, memory.value.at[before], running, Step(issued, soften)
        )
        plgpu.barrier_arrive(memory.value_free.at[before])
        return out * across(running.left, out.shape), running
