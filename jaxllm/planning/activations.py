"""Estimates the memory of a prefill besides weights and cache."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxllm.config import (
    AttentionConfig,
    DecoderConfig,
    FeedForwardConfig,
    LatentAttentionConfig,
    MixtureOfExpertsConfig,
)
from jaxllm.generation.tokens import PREFILL_CHUNK
from jaxllm.kernels.blockwise import BLOCKS
from jaxllm.nn.latent_attention import LATENT_BLOCK
from jaxllm.parallel.pipeline import microbatches
from jaxllm.planning.memory import local_shape, weight_bytes
from jaxllm.planning.mesh import MeshShape
from jaxllm.planning.weights import COMPUTE_DTYPES, weights

WIDE = 4  # bytes of the accumulators of matrix products

ShardSize = Callable[..., int]  # elements of one device's shard of an array [B T ...] with the given further axes


def activation_bytes(
    config: DecoderConfig, stored: str, mesh: Any, batch: int, time: int, capacity: int, offload: bool = False
) -> float:
    """Estimates one device's bytes of activations during the prefill of prompts [B T] into a cache of S positions.

    T is the number of tokens that `generate` processes at a time, at most `PREFILL_CHUNK`.

    In a dtype of w bytes, the estimate is the larger of 12 B V (the last position's logits and their softmax in
    float32) and the sum of the residual stream, w B T D, of two layers of weights if `fsdp` splits them or they are
    offloaded, and of the largest of

    - attention: queries and outputs, 2 w B T N H, and one block of scores (`jaxllm.kernels.blockwise`) as float32
    products
      and as weights, (4 + w) B N t s. Keys and values are part of the cache. Latent attention expands s latents at a
      time; its first term is w B (T + s) N (H + V);
    - a feed-forward network: its input, w B T D, and gate and up in float32, 8 B T F;
    - a mixture of experts: the memory of a feed-forward network for each of a token's k experts, and their results,
      4 B T k D.

    A pipeline has a microbatch for B. It also holds its input and output, 2 w B T D, and two microbatches in transit.
    Before its loop, the TPU compiler copies the output projections of all attention layers to another layout if T > 1:
    they are counted twice.

    Every axis counts as one device's shard of it. Padding of experts' rows to blocks, on CPUs, is not counted.
    """
    time = min(time, PREFILL_CHUNK)
    width = jnp.dtype(COMPUTE_DTYPES[stored]).itemsize
    stages = mesh.shape.get("stage", 1)
    count = 1
    if stages > 1:
        count = microbatches((batch, time, config.embed_dim), stages, mesh)

    def shard_size(**axes: int) -> int:
        axes = {"batch": batch // count, "time": time} | axes
        return math.prod(local_shape("activation", tuple(axes), tuple(axes.values()), mesh))

    stream = width * shard_size(features=config.embed_dim)
    attention = max(_attention(block.attention, shard_size, time, capacity, width) for block in config.blocks)
    network = max(_feed_forward(block.feed_forward, shard_size, stream, config.embed_dim) for block in config.blocks)
    logits = 3 * WIDE * count * shard_size(time=1, vocab=config.vocab_size)
    held = stream + max(attention, network) + _prefetched_bytes(config, stored, mesh, offload)
    if stages > 1:
        held += 2 * count * stream + 2 * stream + (time > 1) * _output_projections(config, stored, mesh)
    return max(logits, held)


def _attention(
    config: AttentionConfig | LatentAttentionConfig, shard_size: ShardSize, time: int, capacity: int, width: int
) -> float:
    scores = (WIDE + width) * shard_size(
        time=min(time, BLOCKS.queries), heads=config.heads, keys=min(capacity, BLOCKS.keys)
    )
    if isinstance(config, AttentionConfig):
        return scores + 2 * width * shard_size(heads=config.heads, head=config.head_dim)
    head = config.nope_dim + config.rope_dim + config.value_dim
    expanded = min(capacity, LATENT_BLOCK)
    return scores + width * sum(shard_size(time=length, heads=config.heads, head=head) for length in (time, expanded))


def _feed_forward(
    config: FeedForwardConfig | MixtureOfExpertsConfig, shard_size: ShardSize, stream: int, dim: int
) -> float:
    if isinstance(config, FeedForwardConfig):
        return stream + 2 * WIDE * shard_size(hidden=config.hidden)
    expert = _feed_forward(config.expert, shard_size, stream, dim)
    return config.router.num_experts_per_tok * (expert + WIDE * shard_size(features=dim))


def _prefetched_bytes(config: DecoderConfig, stored: str, mesh: Any, offload: bool) -> float:
    """Returns the bytes of two layers of the largest kind, gathered over `fsdp`."""
    if mesh.shape.get("fsdp", 1) == 1 and not offload:
        return 0
    layers: Counter[tuple[str, int]] = Counter()
    without = MeshShape({**mesh.shape, "fsdp": 1})
    for weight, _ in weights(config, stored, mesh.shape.get("stage", 1)):
        if weight.stack is not None:
            layers[weight.stack, weight.layer] += weight_bytes(weight, stored, without)  # pyright: ignore[reportArgumentType]
    return 2 * max(layers.values())


def _output_projections(config: DecoderConfig, stored: str, mesh: Any) -> float:
    """Returns the bytes of the output projections of all attention layers of one device."""
    kinds = weights(config, stored, mesh.shape.get("stage", 1))
    return sum(weight_bytes(weight, stored, mesh) * count for weight, count in kinds if weight.contracts_heads)
