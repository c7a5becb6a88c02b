"""Mixture of experts: a router, and feed-forward networks that each process the tokens routed to them."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import zeros

from jaxllm.config import FeedForwardConfig, MixtureOfExpertsConfig, RouterConfig
from jaxllm.kernels.grouped_matmul import grouped_matmul
from jaxllm.nn.feed_forward import FeedForward, activation
from jaxllm.nn.linear import Linear
from jaxllm.nn.parameter import ParameterFactory, build, register_module
from jaxllm.sharding import ShardIndex, psum_over_shards


@register_module(RouterConfig)
class Router(nnx.Module):
    """Chooses the experts of each token; see `RouterConfig`. It computes in float32 or wider in every model."""

    def __init__(self, init: ParameterFactory, config: RouterConfig, dim: int):
        self.config = config
        init = init.full_precision
        scores = (("scores", config.num_experts),)  # small, and needed by every device: not split
        self.linear = Linear(init, scores, (("embed", dim),), config.bias)
        has_bias = config.score_correction_bias
        self.score_correction_bias = init((config.num_experts,), ("scores",), zeros) if has_bias else None

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the experts [B T k] of x [B T D], and their weights [B T k] in float32 or wider."""
        logits = self.linear.accumulated(x.astype(self.linear.weight.dtype))
        if self.config.score_function == "softmax":
            scores = jax.nn.softmax(logits, axis=-1)
        else:
            scores = jax.nn.sigmoid(logits)
        _, experts = jax.lax.top_k(self._selection_scores(scores), self.config.num_experts_per_tok)
        weights = jnp.take_along_axis(scores, experts, axis=-1)
        if self.config.norm_topk_prob:
            weights = weights / (weights.sum(axis=-1, keepdims=True) + 1e-20)
        return experts, weights * self.config.routed_scaling_factor

    def _selection_scores(self, scores: jax.Array) -> jax.Array:
        """Returns the scores [B T E] by which experts are selected.

        The correction bias is added, and experts outside the selected groups get -inf.
        """
        config = self.config
        if self.score_correction_bias is not None:
            scores = scores + self.score_correction_bias[...]
        if config.n_group == 1:
            return scores
        groups = scores.reshape(*scores.shape[:-1], config.n_group, -1)
        group_scores = jax.lax.top_k(groups, config.topk_within_group)[0].sum(axis=-1)
        _, selected = jax.lax.top_k(group_scores, config.topk_group)
        mask = (jnp.arange(config.n_group) == selected[..., None]).any(axis=-2)
        return jnp.where(mask[..., None], groups, -jnp.inf).reshape(scores.shape)


@register_module(MixtureOfExpertsConfig)
class MixtureOfExperts(nnx.Module):
    """The weighted sum of each token's experts (Shazeer et al. 2017), plus a shared expert if there is one."""

    def __init__(self, init: ParameterFactory, config: MixtureOfExpertsConfig, dim: int):
        self.router = build(init, config.router, dim)
        self.experts = Experts(init, config.expert, config.router.num_experts, dim)
        self.shared_expert = build(init, config.shared_expert, dim)
        gate = (("gate", 1),)
        self.shared_expert_gate = Linear(init, gate, (("embed", dim),)) if config.shared_expert_gate else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the output [B T D] for x [B T D]."""
        experts, weights = self.router(x)
        gate = None
        if self.shared_expert_gate is not None:
            gate = jax.nn.sigmoid(self.shared_expert_gate.accumulated(x))
        networks = (self.experts, self.shared_expert)
        return psum_over_shards(_partial_output, networks, x, experts, weights, gate).astype(x.dtype)


def _partial_output(
    shard: ShardIndex,
    networks: tuple["Experts", FeedForward | None],
    x: jax.Array,
    expert_ids: jax.Array,
    weights: jax.Array,
    gate: jax.Array | None,
) -> jax.Array:
    """Returns what one shard of experts and hidden units contributes to the output [B T D], float32 or wider."""
    experts, shared_expert = networks
    k = expert_ids.shape[-1]
    routed = experts(shard, x.reshape(-1, x.shape[-1]), expert_ids.reshape(-1, k), weights.reshape(-1, k))
    routed = routed.reshape(x.shape)
    if shared_expert is None:
        return routed
    shared = shared_expert.partial_sum(x, add_bias=(shard.expert == 0) & (shard.tensor == 0))
    if gate is not None:
        shared = gate * shared
    return routed + shared


class Experts(nnx.Module):
    """E feed-forward networks with stacked weights, [E F D] and [E D F]."""

    def __init__(self, init: ParameterFactory, config: FeedForwardConfig, experts: int, dim: int):
        self.activation = activation(config)
        expert = (("experts", experts),)
        embed = (("embed", dim),)
        hidden = (("hidden", config.hidden),)
        self.gate = Linear(init, expert + hidden, embed, config.bias) if config.gated else None
        self.up = Linear(init, expert + hidden, embed, config.bias)
        self.down = Linear(init, expert + embed, hidden, config.bias)

    def __call__(self, shard: ShardIndex, x: jax.Array, expert_ids: jax.Array, weights: jax.Array) -> jax.Array:
        """Returns what this shard of the experts contributes to each token's weighted sum.

        Args:
          shard: index of the shard.
          x: [M D].
          expert_ids: experts of each token, int32 [M k].
          weights: weights of these experts, [M k].

        Returns:
          [M D], in float32 or wider.
        """
        count = self.down.weight.shape[0]
        expert = expert_ids.reshape(-1) - shard.expert * count
        expert = jnp.where((expert >= 0) & (expert < count), expert, count)  # experts of other shards are sorted last
        order = jnp.argsort(expert)
        expert = expert[order]
        group_sizes = jnp.bincount(expert, length=count)
        is_local = (expert < count)[:, None]
        rows = jnp.where(is_local, x[order // expert_ids.shape[1]], 0)

        def apply(layer: Linear, x: jax.Array, add_bias: Any = True) -> jax.Array:
            y = grouped_matmul(x, layer.weight[...], group_sizes)
            if layer.bias is not None:
                y = y + jnp.where(add_bias, layer.bias[...][expert], 0)
            return jnp.where(is_local, y, 0)  # rows of other shards are undefined, and so are their gradients

        gate = None
        if self.gate is not None:
            gate = apply(self.gate, rows).astype(x.dtype)
        up = apply(self.up, rows).astype(x.dtype)
        out = apply(self.down, self.activation(gate, up), add_bias=shard.tensor == 0)
        by_token = out[jnp.argsort(order)].reshape(*expert_ids.shape, -1)
        return jnp.einsum("mkd,mk->md", by_token, weights)
