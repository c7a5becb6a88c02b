"""Recommends a mesh for a model."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from jaxllm.config import DecoderConfig, MixtureOfExpertsConfig
from jaxllm.errors import InputError
from jaxllm.planning.memory import format_bytes
from jaxllm.planning.mesh import MeshShape
from jaxllm.planning.speed import predicted_seconds
from jaxllm.planning.work import Memory, Workload
from jaxllm.sharding import MESH_AXES


@dataclass(frozen=True)
class Advice:
    """A recommended mesh, its memory on each device, whether that fits, and the reason in one line."""

    mesh: MeshShape
    memory: Memory
    fits: bool
    reason: str


class _Candidate(NamedTuple):
    mesh: MeshShape
    memory: Memory
    seconds: float

    @property
    def waiting(self) -> tuple[bool, bool]:
        """Whether devices wait for weights (`fsdp`) or layers (`stage`) of other devices, the worse one first."""
        return self.mesh.shape["fsdp"] > 1, self.mesh.shape["stage"] > 1


def advise(work: Workload, devices: int) -> Advice:
    """Returns the mesh of a number of devices that decodes fastest, among those on which the model fits.

    All factorizations over the axes are tried. A pipeline is used only if nothing fits without one, and `fsdp` only if
    no pipeline fits either: for one request both mean waiting for other devices. The remaining meshes are compared by
    `predicted_seconds`. Among those within 5 %, the one with the largest `tensor`, then `expert`, then `data` is
    chosen. If the model fits on none, the mesh that needs the least memory is returned.
    """
    tried = list(meshes(work.config, devices))
    candidates = [candidate for mesh in tried if (candidate := _candidate(work, mesh))]
    if not (fitting := [c for c in candidates if c.memory.total <= work.memory]):
        best = min(candidates, key=lambda c: c.memory.total)
        return Advice(best.mesh, best.memory, False, _does_not_fit(work, devices, best.memory.total))
    simplest = min(c.waiting for c in fitting)
    fitting = [c for c in fitting if c.waiting == simplest]
    fastest = min(c.seconds for c in fitting)
    best = next(c for c in fitting if c.seconds <= 1.05 * fastest)
    taken = f"{format_bytes(best.memory.total)} of {format_bytes(work.memory)}"
    if devices > 1:
        taken += " on each device"
    return Advice(best.mesh, best.memory, True, f"{taken}; {_why(work, tried[0], best)}")


def meshes(config: DecoderConfig, devices: int) -> Iterator[MeshShape]:
    """Yields all factorizations of a number of devices over the mesh axes, in order of preference.

    Only models with a mixture of experts use the axis `expert`.
    """
    mixed = any(isinstance(block.feed_forward, MixtureOfExpertsConfig) for block in config.blocks)
    for tensor in _divisors(devices):
        for expert in _divisors(devices // tensor) if mixed else (1,):
            for data in _divisors(devices // tensor // expert):
                for stage in _divisors(left := devices // tensor // expert // data):
                    extents = {"data": data, "fsdp": left // stage, "stage": stage, "tensor": tensor, "expert": expert}
                    yield MeshShape({axis: extents[axis] for axis in MESH_AXES})


def _candidate(work: Workload, mesh: MeshShape) -> _Candidate | None:
    """Returns a mesh with its memory, or None if the model cannot be split over it."""
    try:
        return _Candidate(mesh, work.memory_on(mesh), predicted_seconds(work, mesh))
    except InputError:
        return None


def _why(work: Workload, first: MeshShape, best: _Candidate) -> str:
    """Returns the reason for a mesh: it is the preferred one, or what rules the preferred one out."""
    if best.mesh == first:
        if first.size > 1:
            return "every device has its share of every layer"
        return "there is one device"
    try:
        memory = work.memory_on(first).total
        seconds = predicted_seconds(work, first)
    except InputError as error:
        return f"{first} cannot be: {str(error).removeprefix('mesh: ')}"
    if memory > work.memory:
        return f"{first} takes {format_bytes(memory)} of each"
    return f"{first} takes {seconds / best.seconds:.2f} times as long for a token"


def _does_not_fit(work: Workload, devices: int, least: float) -> str:
    if devices > 1:
        where = f"{devices} devices of {format_bytes(work.memory)} each"
    else:
        where = format_bytes(work.memory)
    return (
        f"the model does not fit into {where}: {work.stored} weights with a cache of {work.capacity:,} positions take "
        f"at least {format_bytes(least)}, {format_bytes(least - work.memory)} too much; offload=True keeps layers in "
        "host memory"
    )


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(number, 0, -1) if number % divisor == 0]
