"""The operations of the kernel in registers, for a GPU and for the interpreter on the CPU.

The interpreter supports neither layouts nor products with an operand in registers, and in JAX 0.10 no transposed
products. Only this file differs between the two; everything else is interpreted unchanged.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxllm.kernels.flash_gpu import compat

# References to memory are `Any` here: Pallas has no public type for them.


Carry = TypeVar("Carry", bound=tuple)


class ScoreAndOutput(NamedTuple):
    """What to compute while products run, and how to combine the result with the scores into a new carry."""

    issued: Callable[[], None]
    soften: Callable[[jax.Array, Any], Any]


class Hopper:
    """Products by wgmma, which a warpgroup issues and waits for. Scores and outputs stay in wgmma's layout."""

    def __init__(self) -> None:
        self._layout = plgpu.Layout.WGMMA

    def index(self, shape: tuple[int, ...], axis: int) -> jax.Array:
        """Returns int32 indices along an axis of a block of scores."""
        return plgpu.broadcasted_iota(jnp.int32, shape, axis, layout=self._layout)

    def row_index(self, rows: int) -> jax.Array:
        """Returns the int32 indices of a block's rows."""
        return plgpu.broadcasted_iota(jnp.int32, (rows,), 0, layout=self._layout.reduce(1))

    def fill(self, shape: tuple[int, ...], number: float) -> jax.Array:
        """Returns a float32 block filled with a number."""
        return plgpu.layout_cast(jnp.full(shape, number, jnp.float32), self._layout)

    def row_fill(self, rows: int, number: float) -> jax.Array:
        """Returns a float32 number for each row of a block."""
        return plgpu.layout_cast(jnp.full((rows,), number, jnp.float32), self._layout.reduce(1))

    def row_load(self, rows: Any) -> jax.Array:
        """Loads a number for each row of a block."""
        return compat.load(rows, self._layout.reduce(1))

    def score(self, query: Any, key: Any) -> jax.Array:
        """Returns the products [R S], float32, of a query [R H] and a key [S H] in shared memory."""

        def scoped(scores: Any) -> jax.Array:
            plgpu.wgmma(scores, query, key.transpose((1, 0)))
            return scores[...]

        return pl.run_scoped(scoped, plgpu.WGMMAAccumulatorRef((query.shape[0], key.shape[0]), jnp.float32))

    def mix(self, out: jax.Array, weights: jax.Array, value: Any) -> jax.Array:
        """Adds to out [R V] the products of weights [R S] in registers with a value [S V] in shared memory."""
        mixed: Any = pl.run_state(lambda sum_: plgpu.wgmma(sum_, weights, value))(plgpu.WGMMAAccumulatorRef.init(out))
        return mixed

    def score_and_mix(
        self, query: Any, key: Any, out: jax.Array, weights: jax.Array, value: Any, carry: Carry, step: ScoreAndOutput
    ) -> tuple[jax.Array, Carry]:
        """Runs `mix` of one block while `step` turns the next block's scores into a new carry; see `ScoreAndOutput`."""

        def scoped(state: Any) -> None:
            sum_, carried = state

            def issue(scores: Any) -> jax.Array:
                plgpu.wgmma(scores, query, key.transpose((1, 0)))
                plgpu.wgmma(sum_, weights, value)
                step.issued()
                return plgpu.wgmma_accumulator_load(scores, wait_n=1)

            scores = pl.run_scoped(issue, plgpu.WGMMAAccumulatorRef((query.shape[0], key.shape[0]), jnp.float32))
            carry = jax.tree.map(lambda reference: reference[...], carried)
            for reference, array in zip(carried, step.soften(scores, carry), strict=True):
                reference[...] = array

        state: Any = pl.run_state(scoped)((plgpu.WGMMAAccumulatorRef.init(out), carry))
        # The new weights must not reuse the registers of the old ones while those are multiplied. The compiler does not
        # know that products are running; this marks the old weights as still in use. Without it, the compiler would
        # serialize all products.
        out, _ = jax.lax.optimization_barrier((state[0], weights))
        return out, state[1]


class Interpreted:
    """The same operations for the interpreter."""

    def index(self, shape: tuple[int, ...], axis: int) -> jax.Array:
        """See `Hopper`."""
        return jax.lax.broadcasted_iota(jnp.int32, shape, axis)

    def row_index(self, rows: int) -> jax.Array:
        """See `Hopper`."""
        return jax.lax.iota(jnp.int32, rows)

    def fill(self, shape: tuple[int, ...], number: float) -> jax.Array:
        """See `Hopper`."""
        return jnp.full(shape, number, jnp.float32)

    def row_fill(self, rows: int, number: float) -> jax.Array:
        """See `Hopper`."""
        return jnp.full((rows,), number, jnp.float32)

    def row_load(self, rows: Any) -> jax.Array:
        """See `Hopper`."""
        return rows[...]

    def score(self, query: Any, key: Any) -> jax.Array:
        """See `Hopper`."""
        query = _read(query)
        key = _read(key)
        return jnp.einsum("rh,sh->rs", query, key, preferred_element_type=jnp.float32)

    def mix(self, out: jax.Array, weights: jax.Array, value: Any) -> jax.Array:
        """See `Hopper`."""
        return out + jnp.einsum("rs,sv->rv", weights, _read(value), preferred_element_type=jnp.float32)

    def score_and_mix(
        self, query: Any, key: Any, out: jax.Array, weights: jax.Array, value: Any, carry: Carry, step: ScoreAndOutput
    ) -> tuple[jax.Array, Carry]:
        """See `Hopper`."""
        scores = self.score(query, key)
        step.issued()
        return self.mix(out, weights, value), step.soften(scores, carry)


def _read(shared: Any) -> jax.Array:
    """Reads shared memory by ordinary loads, which only a fence orders before the next copy to it."""
    array = shared[...]
    plgpu.commit_smem()
    return array
