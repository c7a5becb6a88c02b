"""The highest decoding speed: a device reads its weights and its cache once for every token of a row."""

import math

from jaxllm.config import DecoderConfig
from jaxllm.planning.memory import cache_bytes, weight_bytes
from jaxllm.planning.mesh import MeshShape
from jaxllm.planning.weights import Weight, weights
from jaxllm.planning.work import Workload

# For comparing meshes: what the bound leaves out.
LINK_SLOWDOWN = (
    8  # times as long as from memory does a byte take from another device: 3.35 TB/s against 450 GB/s, for an H100
)
HOP_SECONDS = 1e-5  # seconds until another device has an answer, or all have met


def decode_seconds(work: Workload, mesh: MeshShape) -> float:
    """Returns the least time of a decode step for all rows: bytes read divided by bandwidth.

    A device reads all of its weights except lookup tables, the experts that its rows are routed to (see
    `_fraction_read`), and the cache. The stages of a pipeline run one after another. Layers that `fsdp` splits are read
    whole.
    """
    config = work.config
    stages = mesh.shape["stage"]
    whole = MeshShape({**mesh.shape, "fsdp": 1})
    rows = math.ceil(work.batch / (mesh.shape["data"] * mesh.shape["fsdp"]))
    read = stages * cache_bytes(config, work.stored, mesh, work.batch, work.capacity)
    for weight, count in weights(config, work.stored, stages):
        times = count if weight.stack is None else count * stages
        read += weight_bytes(weight, work.stored, whole) * times * _fraction_read(config, weight, rows)
    return read / work.bandwidth


def predicted_seconds(work: Workload, mesh: MeshShape) -> float:
    """Returns `decode_seconds` plus a rough estimate of communication; meshes are compared by it.

    The estimate counts two all-reduces per layer, one transfer per stage, and the weights that `fsdp` gathers.
    """
    shape = mesh.shape
    stages = mesh.shape["stage"]
    whole = MeshShape({**mesh.shape, "fsdp": 1})
    hops = (stages - 1) + 2 * work.config.num_layers * (shape["tensor"] * shape["expert"] > 1)
    gathered = sum(
        (weight_bytes(weight, work.stored, whole) - weight_bytes(weight, work.stored, mesh)) * count * stages
        for weight, count in weights(work.config, work.stored, stages)
    )
    return decode_seconds(work, mesh) + gathered * LINK_SLOWDOWN / work.bandwidth + hops * HOP_SECONDS


def _fraction_read(config: DecoderConfig, weight: Weight, rows: int) -> float:
    """Returns the fraction of a parameter that a step with a number of rows reads.

    If n rows select k of E experts each at random, they need E (1 - (1 - k / E)^n) of them.
    """
    is_head = "vocab" in weight.axes and getattr(config, "tie_word_embeddings", False)
    if weight.is_table and not is_head:
        return 0
    experts, chosen = weight.experts(config)
    return 1 - (1 - chosen / experts) ** rows
