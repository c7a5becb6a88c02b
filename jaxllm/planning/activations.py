"""What a prefill holds besides weights and cache, at its widest moment: an estimate by formula."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxllm import config
from jaxllm.generation.tokens import PREFILL_CHUNK
from jaxllm.kernels.blockwise import BLOCKS
from jaxllm.nn.latent_attention import SEGMENT
from jaxllm.pipeline import microbatches
from jaxllm.planning.memory import STORED, local_shape, weight_bytes, weights
from jaxllm.planning.mesh import Extents

WIDE = 4  # bytes of what matrix products are added up in

Share = Callable[..., int]  # how many elements of an array [B T ...] with the given further axes one device has


def activation_bytes(
    part: config.Decoder, stored: str, mesh: Any, batch: int, time: int, capacity: int, offload: bool = False
) -> float:
    """One device's bytes while it reads prompts [B T], so many tokens at a time, into a cache of S positions.

    It is an estimate. For T stands what `generate` reads at once, at most `PREFILL_CHUNK`.

    Computing in a dtype of w bytes, it is the larger one of 12 B V, the logits of the last position and their softmax
    in float32, and of the sum of the residual stream, w B T D, of two layers of weights where `fsdp` splits them or
    the host has them, and of the widest of

    - attention: queries and what is mixed for them, 2 w B T N H, and scores, of one block of queries and of keys
      (`jaxllm.kernels.blockwise`), as products in float32 and as weights, (4 + w) B N t s. Keys and values
      are the cache; latent attention expands s of them at a time, and the first is w B (T + s) N (H + V);
    - a feed-forward network: what it reads, w B T D, with gate and up in float32, 8 B T F;
    - a mixture: that for the k experts of every token, with the rows that come back from them, 4 B T k D.

    A pipeline computes with a microbatch for B, and holds besides what goes into it and what comes out, 2 w B T D, and
    a microbatch that comes and one that goes. Before its loop TPUs' compiler lays the output projections of attention
    out anew, of all layers of a device, where T > 1: they are counted again.

    Every axis counts as one device's share of it. On a CPU rows of experts are padded to blocks, which is not counted.
    """
    time = min(time, PREFILL_CHUNK)
    width, stages = jnp.dtype(STORED[stored]).itemsize, mesh.shape.get("stage", 1)
    count = microbatches((batch, time, part.embed_dim), stages, mesh) if stages > 1 else 1

    def share(**axes: int) -> int:
        axes = {"batch": batch // count, "time": time} | axes
        return math.prod(local_shape("activation", tuple(axes), tuple(axes.values()), mesh))

    stream = width * share(features=part.embed_dim)
    blocks = {part.block(layer) for layer in range(part.num_layers)}
    attention = max(_attention(block.attention, share, time, capacity, width) for block in blocks)
    network = max(_feed_forward(block.feed_forward, share, stream, part.embed_dim) for block in blocks)
    logits = 3 * WIDE * count * share(time=1, vocab=part.vocab_size)
    held = stream + max(attention, network) + _fetched(part, stored, mesh, offload)
    if stages > 1:
        held += 2 * count * stream + 2 * stream + (time > 1) * _output_projections(part, stored, mesh)
    return max(logits, held)


def _attention(
    part: config.Attention | config.LatentAttention, share: Share, time: int, capacity: int, width: int
) -> float:
    scores = (WIDE + width) * share(time=min(time, BLOCKS.queries), heads=part.heads, keys=min(capacity, BLOCKS.keys))
    if isinstance(part, config.Attention):
        return scores + 2 * width * share(heads=part.heads, head=part.head_dim)
    head, expanded = part.nope_dim + part.rope_dim + part.value_dim, min(capacity, SEGMENT)
    return scores + width * sum(share(time=length, heads=part.heads, head=head) for length in (time, expanded))


def _feed_forward(part: config.FeedForward | config.Mixture, share: Share, stream: int, dim: int) -> float:
    if isinstance(part, config.FeedForward):
        return stream + 2 * WIDE * share(hidden=part.hidden)
    expert = _feed_forward(part.expert, share, stream, dim)
    return part.router.per_token * (expert + WIDE * share(features=dim))


def _fetched(part: config.Decoder, stored: str, mesh: Any, offload: bool) -> float:
    """Two layers of the largest kind, whole but for what other axes than `fsdp` split."""
    if mesh.shape.get("fsdp", 1) == 1 and not offload:
        return 0
    layers: Counter[str] = Counter()
    without = Extents({**mesh.shape, "fsdp": 1})
    for weight, _ in weights(part, stored, mesh.shape.get("stage", 1)):
        if weight.layer is not None:
            layers[weight.layer] += weight_bytes(weight, stored, without)  # pyright: ignore[reportArgumentType]
    return 2 * max(layers.values())


def _output_projections(part: config.Decoder, stored: str, mesh: Any) -> float:
    """Those of all attention of one device."""
    kinds = weights(part, stored, mesh.shape.get("stage", 1))
    named = ((weight, count) for weight, count in kinds if weight.name.endswith(".attention.output.weight"))
    return sum(weight_bytes(weight, stored, mesh) * count for weight, count in named)
