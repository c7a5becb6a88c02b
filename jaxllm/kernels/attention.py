"""The one entry point to attention, and the plain implementation that every faster one is held against."""

import jax
import jax.numpy as jnp


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
    return reference(query, key, value, offsets=offsets, scale=scale, window=window)


def reference(query, key, value, *, offsets, scale, window=None):
    """Attention with the scores written out, softmax in float32 or better (Vaswani et al. 2017)."""
    batch, length, heads, head_dim = query.shape
    groups = query.reshape(batch, length, key.shape[2], -1, head_dim)  # [B T K G H]
    wide = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.einsum("btkgh,bskh->bkgts", groups, key, preferred_element_type=wide) * scale
    mask = visible(offsets, length, key.shape[1], window)[:, None, None]
    weights = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), axis=-1).astype(query.dtype)
    out = jnp.einsum("bkgts,bskh->btkgh", weights, value, preferred_element_type=wide)
    return out.astype(query.dtype).reshape(batch, length, heads, head_dim)


def visible(offsets: jax.Array, queries: int, keys: int, window: int | None) -> jax.Array:
    """Which key each query may see, bool [B T S]."""
    position = (offsets[:, None] + jnp.arange(queries))[..., None]
    key = jnp.arange(keys)
    mask = key <= position
    return mask if window is None else mask & (key > position - window)


def choose(platform: str) -> tuple[str, str]:
    """The implementation that `attention` uses on a platform, and why."""
    return "reference", f"the only implementation so far; right on every backend, {platform} included"
