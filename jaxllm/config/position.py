"""Configs of positions: rotary embeddings and their scalings, ALiBi, learned positions."""

from dataclasses import dataclass

from jaxllm.config.checks import require_positive
from jaxllm.errors import InputError


@dataclass(frozen=True)
class LinearScalingConfig:
    """Divides positions by `factor` (Chen et al. 2023)."""

    factor: float


@dataclass(frozen=True)
class DynamicNTKScalingConfig:
    """NTK-aware scaling of the base by each row's length, once it exceeds `original_length`."""

    factor: float
    original_length: int


@dataclass(frozen=True)
class YarnScalingConfig:
    """YaRN (Peng et al. 2023): interpolates low frequencies, keeps high ones, and scales the tables."""

    factor: float
    original_length: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


@dataclass(frozen=True)
class Llama3ScalingConfig:
    """Llama 3.1's scaling: divides the frequencies of long wavelengths by `factor`, with a smooth transition."""

    factor: float
    original_length: int
    low_freq_factor: float
    high_freq_factor: float


@dataclass(frozen=True)
class LongRoPEScalingConfig:
    """LongRoPE (Ding et al. 2024): divides each frequency by a factor of its own.

    Rows longer than `original_length` use `long_factor` for all of their positions, others use `short_factor`.
    """

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_length: int
    attention_factor: float


@dataclass(frozen=True)
class RotaryConfig:
    """Rotary position embedding (Su et al. 2021).

    Attributes:
      theta: base of the frequencies.
      scaling: scaling of the frequencies, if there is one.
      rotary_dim: number of dimensions of each head that are rotated; None means all.
      interleaved: whether the two dimensions of a pair are neighbors; otherwise they are half of `rotary_dim` apart.
    """

    theta: float = 10_000.0
    scaling: (
        LinearScalingConfig
        | DynamicNTKScalingConfig
        | YarnScalingConfig
        | Llama3ScalingConfig
        | LongRoPEScalingConfig
        | None
    ) = None
    rotary_dim: int | None = None
    interleaved: bool = False

    def validate(self, head_dim: int) -> None:
        """Raises InputError if heads of a size cannot be rotated."""
        require_positive(self)
        dim = head_dim if self.rotary_dim is None else self.rotary_dim
        if dim % 2:
            raise InputError(
                f"config: {'head_dim' if self.rotary_dim is None else 'rotary dim'}={dim} is odd: pairs are turned"
            )
        if not 0 < dim <= head_dim:
            raise InputError(f"config: {dim} rotary dimensions in heads of {head_dim}")
        for factors in (
            (self.scaling.short_factor, self.scaling.long_factor)
            if isinstance(self.scaling, LongRoPEScalingConfig)
            else ()
        ):
            if len(factors) != dim // 2:
                raise InputError(f"config: {len(factors)} factors for {dim // 2} rotary frequencies")
        self._check_scaling(dim)

    def _check_scaling(self, dim: int) -> None:
        """Raises InputError if the scaling's formula would divide by zero."""
        scaling = self.scaling
        if scaling is not None:
            require_positive(scaling)
        if isinstance(scaling, YarnScalingConfig) and self.theta == 1:
            raise InputError("config: Yarn's scaling cannot have a theta of 1")
        if isinstance(scaling, DynamicNTKScalingConfig) and dim == 2:
            raise InputError("config: dynamic scaling needs more than 2 rotary dimensions")
        if isinstance(scaling, Llama3ScalingConfig) and scaling.low_freq_factor == scaling.high_freq_factor:
            raise InputError("config: Llama 3's scaling needs two different frequency factors")


@dataclass(frozen=True)
class ALiBiConfig:
    """ALiBi (Press et al. 2022): a bias on the scores that is proportional to the distance.

    Attributes:
      slopes: slope of each head.
      scale: factor of the biases.
      bfloat16: whether slopes, positions and their products are rounded to bfloat16, as in Falcon.
    """

    slopes: tuple[float, ...]
    scale: float = 1.0
    bfloat16: bool = False


@dataclass(frozen=True)
class LearnedPositionConfig:
    """One learned vector per position, which is added to the token's embedding.

    Attributes:
      length: number of positions.
      offset: number of unused vectors at the start of the table.
    """

    length: int
    offset: int = 0

    def __post_init__(self) -> None:
        require_positive(self, allow_zero=("offset",))
