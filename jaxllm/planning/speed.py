"""How fast decoding can be at most: a device reads its weights and its cache once for every token of a row."""

import math

from jaxllm import config
from jaxllm.planning.memory import Weight, cache_bytes, weight_bytes, weights
from jaxllm.planning.mesh import Extents
from jaxllm.planning.work import Work

# For choosing between meshes: what the bound leaves out.
LINK = 8  # times as long as from memory does a byte take from another device: 3.35 TB/s against 450 GB/s, for an H100
HOP = 1e-5  # seconds until another device has an answer, or all have met


def decode_seconds(work: Work, mesh: Extents) -> float:
    """The least time that a step of decoding takes, for all rows: bytes read over bandwidth.

    Read are all weights of a device but the tables that tokens are looked up in, of a mixture those of the experts that
    the rows go to (see `_read_share`), and the cache. Stages of a pipeline come one after the other, and layers whose
    weights `fsdp` splits are read whole.
    """
    part, stages, whole = work.part, mesh.shape["stage"], Extents({**mesh.shape, "fsdp": 1})
    rows = math.ceil(work.batch / (mesh.shape["data"] * mesh.shape["fsdp"]))
    read = stages * cache_bytes(part, work.stored, mesh, work.batch, work.capacity)
    for weight, count in weights(part, work.stored, stages):
        times = count if weight.layer is None else count * stages
        read += weight_bytes(weight, work.stored, whole) * times * _read_share(part, weight, rows)
    return read / work.bandwidth


def predicted_seconds(work: Work, mesh: Extents) -> float:
    """That bound with the time that devices wait for each other, roughly: what meshes are compared by.

    Two sums over devices in every layer, a step from stage to stage, and the weights that `fsdp` gathers.
    """
    shape, stages, whole = mesh.shape, mesh.shape["stage"], Extents({**mesh.shape, "fsdp": 1})
    hops = (stages - 1) + 2 * work.part.num_layers * (shape["tensor"] * shape["expert"] > 1)
    gathered = sum(
        (weight_bytes(weight, work.stored, whole) - weight_bytes(weight, work.stored, mesh)) * count * stages
        for weight, count in weights(work.part, work.stored, stages)
    )
    return decode_seconds(work, mesh) + gathered * LINK / work.bandwidth + hops * HOP


def _read_share(part: config.Decoder, weight: Weight, rows: int) -> float:
    """How much of a parameter a step with that many rows reads.

    Of E experts n rows, each with k of them drawn evenly, need E (1 - (1 - k / E)^n).
    """
    if weight.name.startswith("position.") or (weight.name.startswith("embedding.") and not part.tied):
        return 0
    experts, chosen = weight.experts(part)
    return 1 - (1 - chosen / experts) ** rows
