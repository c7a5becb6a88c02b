"""The one entry point to attention, the implementations behind it, and the choice between them."""

import jax
import jax.numpy as jnp

BLOCK = 512  # queries at a time, where there are more


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    offsets: jax.Array,
    scale: float,
    window: int | None = None,
) -> jax.Array:
    """Causal attention of query [B T N H] on key and value [B S K H], query heads in groups of N // K; [B T N H].

    Query t of row b stands at position `offsets[b] + t`, key s at position s. A query sees keys up to its own
    position, the last `window` of them if a window is given. Keys past a row's end are never seen, since
    every query of the row stands before them: rows of unequal length need no other mask.
    """
    name, _ = choose(query.shape[1])
    return _IMPLEMENTATIONS[name](query, key, value, offsets, scale, window)


def choose(queries: int) -> tuple[str, str]:
    """Which implementation serves a call with that many queries, and why."""
    if queries <= BLOCK:
        return "reference", f"at most {BLOCK} queries: the scores fit, and nothing is simpler"
    return "blocked", f"more than {BLOCK} queries: so many at a time, and scores never grow with their square"


def reference(
    query: jax.Array, key: jax.Array, value: jax.Array, offsets: jax.Array, scale: float, window: int | None
) -> jax.Array:
    """With all scores written out; softmax in float32 or wider (Vaswani et al. 2017)."""
    batch, length, heads, head_dim = query.shape
    groups = query.reshape(batch, length, key.shape[2], -1, head_dim)  # [B T K G H]
    wide = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.einsum("btkgh,bskh->bkgts", groups, key, preferred_element_type=wide) * scale
    mask = visible(offsets, length, key.shape[1], window)[:, None, None]
    lowest = jnp.finfo(wide).min  # not -inf: padded queries that see no key must not give their gradients NaN
    weights = jax.nn.softmax(jnp.where(mask, scores, lowest), axis=-1).astype(query.dtype)
    out = jnp.einsum("bkgts,bskh->btkgh", weights, value, preferred_element_type=wide)
    return out.astype(query.dtype).reshape(batch, length, heads, head_dim)


def blocked(
    query: jax.Array, key: jax.Array, value: jax.Array, offsets: jax.Array, scale: float, window: int | None
) -> jax.Array:
    """The reference on one block of queries after another; scores are recomputed for a gradient, never kept."""
    batch, length, heads, head_dim = query.shape
    count = -(-length // BLOCK)
    padded = jnp.pad(query, ((0, 0), (0, count * BLOCK - length), (0, 0), (0, 0)))
    blocks = padded.reshape(batch, count, BLOCK, heads, head_dim).swapaxes(0, 1)

    @jax.checkpoint
    def one(block_and_start):
        block, start = block_and_start
        return reference(block, key, value, offsets + start, scale, window)

    out = jax.lax.map(one, (blocks, jnp.arange(count, dtype=jnp.int32) * BLOCK))
    return out.swapaxes(0, 1).reshape(batch, count * BLOCK, heads, head_dim)[:, :length]


def visible(offsets: jax.Array, queries: int, keys: int, window: int | None) -> jax.Array:
    """Which key each query may see, bool [B T S]."""
    position = (offsets[:, None] + jnp.arange(queries))[..., None]
    key = jnp.arange(keys)
    mask = key <= position
    return mask if window is None else mask & (key > position - window)


_IMPLEMENTATIONS = {"reference": reference, "blocked": blocked}
