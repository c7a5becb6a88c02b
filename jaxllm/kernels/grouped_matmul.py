"""Grouped matrix multiplication for mixtures of experts: sorted rows times the weight of each row's group."""

from functools import partial

import jax
import jax.numpy as jnp

LARGEST_BLOCK = 256  # rows that share one read of a weight


def grouped_matmul(x: jax.Array, weight: jax.Array, sizes: jax.Array) -> jax.Array:
    """Multiplies each row of x [M D] by the weight [F D] of its group, and returns [M F] in float32 or wider.

    The rows are sorted by group: the first `sizes[0]` belong to group 0, the next `sizes[1]` to group 1, and so on. The
    sizes [E] sum to at most M; results of further rows are undefined. Products are accumulated in float32 or wider.
    JAX's ragged matmul multiplies every row by every weight on CPUs; there, blocks of rows are multiplied one by one
    instead.
    """
    return jax.lax.platform_dependent(x, weight, sizes, tpu=_ragged, cuda=_ragged, rocm=_ragged, default=blocked_matmul)


def _ragged(x: jax.Array, weight: jax.Array, sizes: jax.Array) -> jax.Array:
    numbers = jax.lax.RaggedDotDimensionNumbers((((1,), (2,)), ((), ())), [0], [0])
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return jax.lax.ragged_dot_general(x, weight, sizes.astype(jnp.int32), numbers, preferred_element_type=wide)


def blocked_matmul(x: jax.Array, weight: jax.Array, sizes: jax.Array) -> jax.Array:
    """Multiplies padded blocks of rows, each of one group; at most M // block + E of them. Empty blocks cost nothing.

    A weight is read in place, one group at a time and inside a branch. Outside a branch the compiler would convert all
    narrower weights to float32 before the loop.
    """
    rows = len(x)
    groups = len(weight)
    block = min(max(2, 1 << (rows // groups // 2).bit_length()), LARGEST_BLOCK)  # half a group's rows, or all of them
    counts = -(-sizes // block)  # blocks of each group
    ends = jnp.cumsum(counts)
    first_row = jnp.cumsum(sizes) - sizes
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
