"""Matmuls of sorted rows with the weight of each row's group: the work of a mixture of experts."""

from functools import partial

import jax
import jax.numpy as jnp

LARGEST_BLOCK = 256  # rows that share one read of a weight


def grouped_matmul(x: jax.Array, weight: jax.Array, sizes: jax.Array) -> jax.Array:
    """Rows x [M D], the first `sizes[0]` times weight[0]^T [F D], the next `sizes[1]` times weight[1]^T, ...; [M F].

    The sizes [E] sum to at most M; rows past that give anything at all. Products are accumulated and returned in
    float32 or wider. Where JAX's ragged matmul multiplies every row by every weight (on the CPU it does), blocks of
    rows are multiplied one by one instead.
    """
    return jax.lax.platform_dependent(x, weight, sizes, tpu=_ragged, cuda=_ragged, rocm=_ragged, default=blocked)


def _ragged(x: jax.Array, weight: jax.Array, sizes: jax.Array) -> jax.Array:
    numbers = jax.lax.RaggedDotDimensionNumbers((((1,), (2,)), ((), ())), [0], [0])
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return jax.lax.ragged_dot_general(x, weight, sizes.astype(jnp.int32), numbers, preferred_element_type=wide)


def blocked(x: jax.Array, weight: jax.Array, sizes: jax.Array) -> jax.Array:
    """Blocks of rows of one group each, padded; at most M // block + E of them, and empty ones cost nothing.

    A weight is read where it lies, one group's at a time and inside of a branch: outside, the compiler would make
    float32 copies of all narrower ones before the loop.
    """
    rows, groups = len(x), len(weight)
    block = min(max(2, 1 << (rows // groups // 2).bit_length()), LARGEST_BLOCK)  # half a group's rows, or all of them
    counts = -(-sizes // block)  # blocks of each group
    ends, first_row = jnp.cumsum(counts), jnp.cumsum(sizes) - sizes
    padded = jnp.pad(x, ((0, block), (0, 0)))
    wide = jnp.promote_types(x.dtype, jnp.float32)

    @jax.checkpoint
    def multiply(start, group):
        chunk = jax.lax.dynamic_slice_in_dim(padded, start, block)
        chosen = jax.lax.dynamic_index_in_dim(weight, group, keepdims=False)
        return jax.lax.dot_general(chunk, chosen, (((1,), (1,)), ((), ())), preferred_element_type=wide)

    def step(_, index):
        group = jnp.minimum(jnp.searchsorted(ends, index, side="right"), groups - 1)
        start = first_row[group] + (index - ends[group] + counts[group]) * block
        nothing = partial(jnp.zeros, (block, weight.shape[1]), wide)
        return None, jax.lax.cond(index < ends[-1], multiply, lambda *_: nothing(), start, group)

    most = min(groups, rows) + rows // block
    _, out = jax.lax.scan(step, None, jnp.arange(most))
    group = jnp.searchsorted(jnp.cumsum(sizes), jnp.arange(rows), side="right")
    within = jnp.arange(rows) - first_row[group]
    return out.reshape(most * block, -1)[(ends - counts)[group] * block + within]
