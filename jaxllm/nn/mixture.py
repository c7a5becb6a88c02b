"""Mixtures of experts: a router, and feed-forward networks that each see the tokens sent to them."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import zeros

from jaxllm import config
from jaxllm.kernels.grouped import grouped_matmul
from jaxllm.nn.feed_forward import FeedForward, activation
from jaxllm.nn.linear import Linear, linear
from jaxllm.nn.parameter import Init, build, builds
from jaxllm.shares import Share, add_up


@builds(config.Router)
class Router(nnx.Module):
    """The choice of experts for each token; see `config.Router`. What a choice hangs on is never narrow."""

    def __init__(self, init: Init, part: config.Router, dim: int):
        self.part, init = part, init.wide
        scores = (("scores", part.experts),)  # whole on every device: small, and all of them choose
        self.map = Linear(init, scores, (("embed", dim),), part.bias)
        self.correction = init((part.experts,), ("scores",), zeros) if part.correction else None

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Vectors [B T D] -> the chosen experts [B T k] and their weights [B T k], float32 or wider."""
        logits, part = self.map.wide(x.astype(self.map.weight.dtype)), self.part
        scores = jax.nn.softmax(logits, axis=-1) if part.score == "softmax" else jax.nn.sigmoid(logits)
        _, chosen = jax.lax.top_k(self._preference(scores), part.per_token)
        weights = jnp.take_along_axis(scores, chosen, axis=-1)
        if part.normalize:
            weights = weights / (weights.sum(axis=-1, keepdims=True) + 1e-20)
        return chosen, weights * part.scale

    def _preference(self, scores: jax.Array) -> jax.Array:
        """The scores that the choice goes by: corrected, and lowest outside of the best groups."""
        part = self.part
        if self.correction is not None:
            scores = scores + self.correction[...]
        if part.groups == 1:
            return scores
        groups = scores.reshape(*scores.shape[:-1], part.groups, -1)
        worth = jax.lax.top_k(groups, part.group_best)[0].sum(axis=-1)
        _, kept = jax.lax.top_k(worth, part.kept_groups)
        mask = (jnp.arange(part.groups) == kept[..., None]).any(axis=-2)
        return jnp.where(mask[..., None], groups, -jnp.inf).reshape(scores.shape)


@builds(config.Mixture)
class Mixture(nnx.Module):
    """Shazeer et al. 2017: a token's output is the weighted sum of its experts', besides that of the shared one."""

    def __init__(self, init: Init, part: config.Mixture, dim: int):
        self.router = build(init, part.router, dim)
        self.experts = Experts(init, part.expert, part.router.experts, dim)
        self.shared = build(init, part.shared, dim)
        self.shared_gate = Linear(init, (("gate", 1),), (("embed", dim),)) if part.shared_gate else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B T D] -> [B T D]."""
        chosen, weights = self.router(x)
        gate = None if self.shared_gate is None else jax.nn.sigmoid(self.shared_gate.wide(x))
        return add_up(_outputs, (self.experts, self.shared), x, chosen, weights, gate).astype(x.dtype)


def _outputs(
    share: Share,
    networks: tuple["Experts", FeedForward | None],
    x: jax.Array,
    chosen: jax.Array,
    weights: jax.Array,
    gate: jax.Array | None,
) -> jax.Array:
    """[B T D] -> [B T D], in float32 or wider: what a share of experts and hidden units has to say."""
    (experts, shared), k = networks, chosen.shape[-1]
    rows = x.reshape(-1, x.shape[-1]), chosen.reshape(-1, k), weights.reshape(-1, k)
    out = experts(share, *rows).reshape(x.shape)
    if shared is None:
        return out
    product = linear(shared.hidden(x), shared.down.weight[...])
    if shared.down.bias is not None:
        product = product + jnp.where((share.expert == 0) & (share.tensor == 0), shared.down.bias[...], 0)
    return out + (product if gate is None else gate * product)


class Experts(nnx.Module):
    """E feed-forward networks with stacked weights, [E F D] and [E D F]."""

    def __init__(self, init: Init, part: config.FeedForward, experts: int, dim: int):
        self.activate = activation(part)
        stack, embed, hidden = (("experts", experts),), (("embed", dim),), (("hidden", part.hidden),)
        self.gate = Linear(init, stack + hidden, embed, part.bias) if part.gated else None
        self.up = Linear(init, stack + hidden, embed, part.bias)
        self.down = Linear(init, stack + embed, hidden, part.bias)

    def __call__(self, share: Share, x: jax.Array, chosen: jax.Array, weights: jax.Array) -> jax.Array:
        """Vectors [M D], their experts [M k] and weights [M k] -> this share of the sums [M D], float32 or wider.

        Each row meets its experts alone.
        """
        count = len(self.down.weight[...])
        expert = chosen.reshape(-1) - share.expert * count
        expert = jnp.where((expert >= 0) & (expert < count), expert, count)  # others' come last
        order = jnp.argsort(expert)  # all rows of the first expert, then of the second, ...
        expert, sizes = expert[order], jnp.bincount(expert, length=count)
        mine = (expert < count)[:, None]
        rows = jnp.where(mine, x[order // chosen.shape[1]], 0)  # what others' have, and its gradient, may be anything

        def apply(map_: Linear, x: jax.Array, biased: Any = True) -> jax.Array:
            y = grouped_matmul(x, map_.weight[...], sizes)
            y = y if map_.bias is None else y + jnp.where(biased, map_.bias[...][expert], 0)
            return jnp.where(mine, y, 0)

        gate, up = (None if map_ is None else apply(map_, rows).astype(x.dtype) for map_ in (self.gate, self.up))
        out = apply(self.down, self.activate(gate, up), share.tensor == 0)
        return jnp.einsum("mkd,mk->md", out[jnp.argsort(order)].reshape(*chosen.shape, -1), weights)
