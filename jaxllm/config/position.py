"""Where tokens stand: rotary positions and their scalings, ALiBi, learned vectors."""

from dataclasses import dataclass

from jaxllm.config.checks import positive
from jaxllm.errors import InputError


@dataclass(frozen=True)
class LinearScaling:
    """Positions divided by `factor` (Chen et al. 2023)."""

    factor: float


@dataclass(frozen=True)
class DynamicScaling:
    """NTK-aware scaling of the base, by the length of each row once it exceeds `original_length`."""

    factor: float
    original_length: int


@dataclass(frozen=True)
class YarnScaling:
    """Peng et al. 2023: low frequencies interpolated, high ones kept, and the tables scaled."""

    factor: float
    original_length: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1: frequencies of long wavelength divided by `factor`, with a smooth passage."""

    factor: float
    original_length: int
    low_freq_factor: float
    high_freq_factor: float


@dataclass(frozen=True)
class LongScaling:
    """LongRoPE (Ding et al. 2024): a divisor per frequency; rows longer than `original_length` take the long ones."""

    short: tuple[float, ...]
    long: tuple[float, ...]
    original_length: int
    attention_factor: float


@dataclass(frozen=True)
class Rotary:
    """Su et al. 2021: the first `dim` of each head (all, if None) are turned in pairs; `theta` is the base.

    Pairs are a half apart, or neighbours if `interleaved`.
    """

    theta: float = 10_000.0
    scaling: LinearScaling | DynamicScaling | YarnScaling | Llama3Scaling | LongScaling | None = None
    dim: int | None = None
    interleaved: bool = False

    def check(self, head_dim: int) -> None:
        """Raises InputError unless heads of that size can be turned so."""
        positive(self)
        dim = head_dim if self.dim is None else self.dim
        if dim % 2:
            raise InputError(
                f"config: {'head_dim' if self.dim is None else 'rotary dim'}={dim} is odd: pairs are turned"
            )
        if not 0 < dim <= head_dim:
            raise InputError(f"config: {dim} rotary dimensions in heads of {head_dim}")
        for factors in (self.scaling.short, self.scaling.long) if isinstance(self.scaling, LongScaling) else ():
            if len(factors) != dim // 2:
                raise InputError(f"config: {len(factors)} factors for {dim // 2} rotary frequencies")
        self._check_scaling(dim)

    def _check_scaling(self, dim: int) -> None:
        """Refuses what the formulas divide by zero for."""
        scaling = self.scaling
        if scaling is not None:
            positive(scaling)
        if isinstance(scaling, YarnScaling) and self.theta == 1:
            raise InputError("config: Yarn's scaling cannot have a theta of 1")
        if isinstance(scaling, DynamicScaling) and dim == 2:
            raise InputError("config: dynamic scaling needs more than 2 rotary dimensions")
        if isinstance(scaling, Llama3Scaling) and scaling.low_freq_factor == scaling.high_freq_factor:
            raise InputError("config: Llama 3's scaling needs two different frequency factors")


@dataclass(frozen=True)
class Alibi:
    """Press et al. 2022: each head's scores fall with the distance, by its slope times `scale`.

    `bfloat16` rounds slopes, positions and their products to it, as Falcon was trained.
    """

    slopes: tuple[float, ...]
    scale: float = 1.0
    bfloat16: bool = False


@dataclass(frozen=True)
class LearnedPosition:
    """One trained vector per position, added to the token's; the table begins with `offset` others."""

    length: int
    offset: int = 0

    def __post_init__(self) -> None:
        positive(self, but=("offset",))
