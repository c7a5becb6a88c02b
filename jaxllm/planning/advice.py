"""Which mesh a model should run on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from jaxllm import config
from jaxllm.errors import InputError
from jaxllm.planning.memory import in_bytes
from jaxllm.planning.mesh import Extents
from jaxllm.planning.speed import predicted_seconds
from jaxllm.planning.work import Memory, Work
from jaxllm.sharding import MESH_AXES


@dataclass(frozen=True)
class Advice:
    """A mesh, what it takes of each device, whether that is there, and a line that says why it is this mesh."""

    mesh: Extents
    memory: Memory
    fits: bool
    reason: str


class _Candidate(NamedTuple):
    mesh: Extents
    memory: Memory
    seconds: float

    @property
    def waits(self) -> tuple[bool, bool]:
        """Whether devices hold weights or layers that others wait for, the worse of the two first."""
        return self.mesh.shape["fsdp"] > 1, self.mesh.shape["stage"] > 1


def advise(work: Work, devices: int) -> Advice:
    """The mesh of that many devices that decodes fastest, of those that the model fits on.

    All ways are tried to share devices out between the axes. A pipeline is taken only where nothing fits without, and
    `fsdp` where a pipeline does not fit either: for one request both are a wait for others. What is left is compared by
    `predicted_seconds`; of equals (to 5%) the one with more `tensor`, then `expert`, then `data` is taken. Where the
    model fits on none, it is the mesh that lacks least.
    """
    tried = list(meshes(work.part, devices))
    candidates = [candidate for mesh in tried if (candidate := _candidate(work, mesh))]
    if not (fitting := [c for c in candidates if c.memory.total <= work.memory]):
        best = min(candidates, key=lambda c: c.memory.total)
        return Advice(best.mesh, best.memory, False, _lacking(work, devices, best.memory.total))
    simplest = min(c.waits for c in fitting)
    fitting = [c for c in fitting if c.waits == simplest]
    fastest = min(c.seconds for c in fitting)
    best = next(c for c in fitting if c.seconds <= 1.05 * fastest)
    taken = f"{in_bytes(best.memory.total)} of {in_bytes(work.memory)}" + " on each device" * (devices > 1)
    return Advice(best.mesh, best.memory, True, f"{taken}; {_why(work, tried[0], best)}")


def meshes(part: config.Decoder, devices: int) -> Iterator[Extents]:
    """All ways to share devices out between the axes, `expert` for mixtures only, in the order of preference."""
    mixed = any(isinstance(block.feed_forward, config.Mixture) for block in part.blocks)
    for tensor in _divisors(devices):
        for expert in _divisors(devices // tensor) if mixed else (1,):
            for data in _divisors(devices // tensor // expert):
                for stage in _divisors(left := devices // tensor // expert // data):
                    extents = {"data": data, "fsdp": left // stage, "stage": stage, "tensor": tensor, "expert": expert}
                    yield Extents({axis: extents[axis] for axis in MESH_AXES})


def _candidate(work: Work, mesh: Extents) -> _Candidate | None:
    """A mesh with what it takes, or None where the model cannot be split so."""
    try:
        return _Candidate(mesh, work.on(mesh), predicted_seconds(work, mesh))
    except InputError:
        return None


def _why(work: Work, first: Extents, best: _Candidate) -> str:
    """What speaks for a mesh: that it is the first, or what speaks against the first."""
    if best.mesh == first:
        return "every device has its share of every layer" if first.size > 1 else "there is one device"
    try:
        memory, seconds = work.on(first).total, predicted_seconds(work, first)
    except InputError as error:
        return f"{first} cannot be: {str(error).removeprefix('mesh: ')}"
    if memory > work.memory:
        return f"{first} takes {in_bytes(memory)} of each"
    return f"{first} takes {seconds / best.seconds:.2f} times as long for a token"


def _lacking(work: Work, devices: int, least: float) -> str:
    where = f"{devices} devices of {in_bytes(work.memory)} each" if devices > 1 else in_bytes(work.memory)
    return (
        f"the model does not fit into {where}: {work.stored} weights with a cache of {work.capacity:,} positions take "
        f"at least {in_bytes(least)}, {in_bytes(least - work.memory)} too much; offload=True keeps layers in the "
        "host's memory"
    )


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(number, 0, -1) if number % divisor == 0]
