"""The causal language model: embedding, blocks, norm, head."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm import config
from jaxllm.cache import Cache, Span, Tokens
from jaxllm.errors import InputError
from jaxllm.kernels.inputs import softcap
from jaxllm.nn.embedding import Embedding
from jaxllm.nn.linear import Linear
from jaxllm.nn.norm import embed
from jaxllm.nn.parameter import Init, build, named_parameters, replace_parameters
from jaxllm.pipeline import Pipeline
from jaxllm.sharding import constrain, named_sharding
from jaxllm.streaming import Entries, Layers

REREAD = 512  # tokens at a time


class Decoder(nnx.Module):
    """A causal language model made from `config.Decoder`; a pytree, for `jax.jit` and its kin to work on.

    Without random streams it holds shapes in place of arrays. On a mesh with stages its layers are a pipeline.
    """

    def __init__(self, part: config.Decoder, *, rngs: nnx.Rngs | None, dtype: Any = jnp.float32, mesh: Any = None):
        init, dim, table = Init(rngs, jnp.dtype(dtype)), part.embed_dim, part.table_dim or part.embed_dim
        self.config = part
        self.embedding = Embedding(init, part.vocab_size, table)
        widths = (("table", table),), (("embed", dim),)
        self.project_in = Linear(init, widths[1], widths[0]) if part.table_dim else None
        self.embed_norm = build(init, part.embed_norm, embed(dim))
        self.position = build(init, part.position, dim)
        blocks = [part.block(i) for i in range(part.num_layers)]
        staged = mesh is not None and mesh.shape["stage"] > 1
        self.layers: Any = Pipeline(init, blocks, dim, mesh) if staged else Layers(init, blocks, dim)
        self.norm = build(init, part.norm, embed(dim))
        self.project_out = Linear(init, widths[0], widths[1]) if part.table_dim else None
        vocab = (("vocab", part.vocab_size),)
        self.head = None if part.tied else Linear(init, vocab, widths[0], part.head_bias)

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the residual stream."""
        return self.embedding.weight.dtype

    def __call__(self, tokens: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        """Logits float32 (float64 for a float64 model) [B T V] for int32 tokens [B T].

        Rows are right-padded; `lengths`, int32 [B], says how much of each counts (all of it by default). What
        stands at padded positions of the result is meaningless.

        Raises:
            InputError: tokens or lengths of another shape or kind, or more tokens than there are positions.
        """
        return self.logits(self.hidden(tokens, lengths)[0])

    def hidden(
        self,
        tokens: jax.Array,
        lengths: jax.Array | None = None,
        cache: Cache | None = None,
        horizon: jax.Array | None = None,
    ) -> tuple[jax.Array, Cache]:
        """The last layer's normalised states [B T D]; with a cache, of tokens that follow what it holds.

        Returns the cache with the first `lengths[b]` of these tokens added to each row. Where they are a part of what
        is to be read, `horizon`, int32 [B], is the length of each row with all of it.
        """
        tokens, added = self._checked(tokens, lengths, cache)
        cache = Cache(self.layers.no_entries) if cache is None else cache
        ends = added if cache.lengths is None else cache.lengths + added
        span = Span(cache.lengths, ends, ends if horizon is None else jnp.maximum(ends, horizon))
        x, entries = self._layers(tokens, span, self._reread(cache, span))
        seen = cache.tokens and cache.tokens.append(span, tokens.astype(jnp.int32))
        return x if self.norm is None else self.norm(x), Cache(entries, span.lengths, seen)

    def embed(self, tokens: jax.Array, span: Span) -> jax.Array:
        """What enters the first layer, [B T D]."""
        x = self.embedding(tokens)
        if self.config.embed_scale != 1:
            x = x * jnp.asarray(self.config.embed_scale, x.dtype)  # rounded first, as PyTorch's is
        if self.project_in is not None:
            x = self.project_in(x)
        if self.embed_norm is not None:
            x = self.embed_norm(x)
        if self.position is not None:
            x = x + self.position(span.positions(tokens.shape[1]))
        return constrain(x, "batch", "time", "features")

    def logits(self, x: jax.Array) -> jax.Array:
        """Normalised states [... D] -> logits [... V], in float32 or wider."""
        if self.project_out is not None:
            x = self.project_out(x)
        logits = self.embedding.logits(x) if self.head is None else self.head.wide(x)
        if self.config.logit_scale != 1:
            logits = logits * self.config.logit_scale
        if self.config.logit_softcap is not None:
            logits = softcap(logits, self.config.logit_softcap)
        return constrain(logits, "rows", *(("time",) * (logits.ndim - 2)), "vocab")

    def new_cache(self, batch: int, capacity: int, dtype: Any = None) -> Cache:
        """An empty cache for `batch` rows of up to `capacity` positions, kept in a dtype: by default the model's.

        Eight bits (`jaxllm.narrow.DTYPES`) are kept with a scale for each vector.
        """
        entries, tokens = self.layers.new_entries(batch, capacity, self.dtype if dtype is None else dtype), None
        if self.config.turning_lengths:
            tokens = Tokens(jnp.zeros((batch, capacity), jnp.int32), jnp.zeros(batch, jnp.int32))
        return Cache(entries, None, tokens)

    def stage_names(self, name: str) -> tuple[str | None, ...] | None:
        """The names that the parts of a parameter have which stages of a pipeline share; None for any other.

        A part is None where a stage has no layer.
        """
        inner = name.removeprefix("layers.")
        if inner == name or not isinstance(self.layers, Pipeline):
            return None
        return tuple(part and f"layers.{part}" for part in self.layers.stored_names(inner))

    def _layers(self, tokens: jax.Array, span: Span, entries: Entries) -> tuple[jax.Array, Entries]:
        """The last layer's states [B T D], and the cache entries with this call's tokens."""
        return self.layers(self.embed(tokens, span), span, entries)

    def _reread(self, cache: Cache, span: Span) -> Entries:
        """The cache's entries, those of rows that this call takes beyond a turning length made anew.

        LongRoPE gives all positions of such a row other frequencies, and what a layer makes of a token depends on
        those of the layers before: all of it is to be read again, once, some tokens at a time.
        """
        turns = [length for length in self.config.turning_lengths if length < cache.capacity]
        if cache.tokens is None or span.start is None or not turns:
            return cache.entries
        (tokens, before), start = (cache.tokens.token, cache.tokens.horizon), span.start
        crossing = jnp.stack([(start > 0) & (before <= turn) & (turn < span.horizon) for turn in turns]).any(axis=0)
        size = next(n for n in range(min(REREAD, tokens.shape[1]), 0, -1) if tokens.shape[1] % n == 0)

        def choose(new: jax.Array, old: jax.Array) -> jax.Array:
            rows = jnp.tile(crossing, len(new) // len(crossing))  # once for every stage of a pipeline
            return jnp.where(rows.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        def part(index: jax.Array, entries: Entries) -> Entries:
            at = jnp.full_like(start, index * size)
            some = jax.lax.dynamic_slice_in_dim(tokens, index * size, size, axis=1)
            return self._layers(some, Span(at, jnp.minimum(start, at + size), span.horizon), entries)[1]

        def read(entries: Entries) -> Entries:
            empty = jax.tree.map(jnp.zeros_like, entries)
            new = jax.lax.fori_loop(0, -(-start.max() // size), part, empty)
            return jax.tree.map(choose, new, entries)

        return jax.lax.cond(crossing.any(), read, lambda entries: entries, cache.entries)

    def _checked(self, tokens: Any, lengths: Any, cache: Cache | None) -> tuple[jax.Array, jax.Array]:
        """Tokens [B T] and how many of them count [B], as arrays; what is checked is known before they are."""
        tokens = jnp.asarray(tokens)
        if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise InputError(f"tokens must be integers [B T], not {tokens.dtype}{list(tokens.shape)}")
        batch, time = tokens.shape
        lengths = jnp.full(batch, time, jnp.int32) if lengths is None else jnp.asarray(lengths)
        if lengths.shape != (batch,) or not jnp.issubdtype(lengths.dtype, jnp.integer):
            raise InputError(f"lengths must be integers [{batch}], not {lengths.dtype}{list(lengths.shape)}")
        if cache is None and self.config.position is not None and time > self.config.position.length:
            raise InputError(f"{time} tokens, but the model has {self.config.position.length} positions")
        return tokens, lengths.astype(jnp.int32)


def abstract(part: config.Decoder, dtype: Any = jnp.float32, mesh: Any = None, offload: bool = False) -> Decoder:
    """The model with shapes in place of arrays: nothing is allocated.

    On a mesh they say where the arrays are to lie; with `offload`, layers in the hosts' memory.

    Raises:
        InputError: the model does not divide over the mesh.
    """
    model, shapes = Decoder(part, rngs=None, dtype=dtype, mesh=mesh), {}
    if mesh is None:
        return model
    for name, parameter in named_parameters(model):
        said = next(filter(None, model.stage_names(name) or (name,)))
        placed = named_sharding(said, parameter.axes, parameter.shape, mesh)
        if offload and name.startswith("layers."):
            placed = placed.with_memory_kind("pinned_host")
        shapes[name] = jax.ShapeDtypeStruct(parameter.shape, parameter.dtype, sharding=placed)
    return replace_parameters(model, shapes)
