"""A model and what is to be done with it by devices of a kind."""

from dataclasses import dataclass

from jaxllm import config
from jaxllm.errors import InputError
from jaxllm.planning.activations import activation_bytes
from jaxllm.planning.memory import STORED, cache_bytes, model_bytes
from jaxllm.planning.mesh import Extents


@dataclass(frozen=True)
class Memory:
    """Bytes on the device that holds the most."""

    weights: float
    cache: float
    activations: float

    @property
    def total(self) -> float:
        """All of them, at the widest moment."""
        return self.weights + self.cache + self.activations


@dataclass(frozen=True)
class Work:
    """What is to be done by devices of that memory, in bytes, and bandwidth, in bytes/s.

    `stored` is what weights are stored as; `capacity` the positions that there is room for in each of `batch` rows.
    """

    part: config.Decoder
    stored: str
    batch: int
    capacity: int
    memory: float
    bandwidth: float

    def __post_init__(self) -> None:
        if self.stored not in STORED:
            raise InputError(f"dtype {self.stored!r}: must be {', '.join(STORED)}")

    def on(self, mesh: Extents) -> Memory:
        """The bytes that it takes of each device of a mesh.

        Raises:
            InputError: the model cannot be split so.
        """
        part, stored = self.part, self.stored
        return Memory(
            model_bytes(part, stored, mesh),
            cache_bytes(part, stored, mesh, self.batch, self.capacity),
            activation_bytes(part, stored, mesh, self.batch, self.capacity, self.capacity),
        )
