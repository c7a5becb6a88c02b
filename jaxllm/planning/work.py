"""A model and what is to be done with it by devices of a kind."""

from dataclasses import dataclass

from jaxllm.config import DecoderConfig
from jaxllm.errors import InputError
from jaxllm.planning.activations import activation_bytes
from jaxllm.planning.memory import cache_bytes, model_bytes
from jaxllm.planning.mesh import MeshShape
from jaxllm.planning.weights import COMPUTE_DTYPES


@dataclass(frozen=True)
class Memory:
    """Bytes on the device that holds the most."""

    weights: float
    cache: float
    activations: float

    @property
    def total(self) -> float:
        """Sum of weights, cache and activations."""
        return self.weights + self.cache + self.activations


@dataclass(frozen=True)
class Workload:
    """What is to be done by devices of that memory, in bytes, and bandwidth, in bytes/s.

    `stored` is what weights are stored as; `capacity` the positions that there is room for in each of `batch` rows.
    """

    config: DecoderConfig
    stored: str
    batch: int
    capacity: int
    memory: float
    bandwidth: float

    def __post_init__(self) -> None:
        if self.stored not in COMPUTE_DTYPES:
            raise InputError(f"dtype {self.stored!r}: must be {', '.join(COMPUTE_DTYPES)}")

    def memory_on(self, mesh: MeshShape) -> Memory:
        """The bytes that it takes of each device of a mesh.

        Raises:
          InputError: the model cannot be split so.
        """
        config = self.config
        stored = self.stored
        return Memory(
            model_bytes(config, stored, mesh),
            cache_bytes(config, stored, mesh, self.batch, self.capacity),
            activation_bytes(config, stored, mesh, self.batch, self.capacity, self.capacity),
        )
