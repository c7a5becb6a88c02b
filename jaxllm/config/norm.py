"""Norms."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RMSNorm:
    """Zhang & Sennrich 2019: scale by the root mean square, no mean, no bias; weights are stored less `offset`."""

    eps: float
    offset: float = 0.0


@dataclass(frozen=True)
class LayerNorm:
    """Ba et al. 2016, with or without a weight and a bias; weights are stored less `offset`."""

    eps: float
    scale: bool = True
    bias: bool = True
    offset: float = 0.0


Norm = RMSNorm | LayerNorm
