"""Configs of normalization."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RMSNormConfig:
    """Root mean square normalization (Zhang & Sennrich 2019). The stored weight is the effective one minus `offset`."""

    eps: float
    offset: float = 0.0


@dataclass(frozen=True)
class LayerNormConfig:
    """Layer normalization (Ba et al. 2016), with or without weight (`scale`) and bias.

    The stored weight is the effective one minus `offset`.
    """

    eps: float
    scale: bool = True
    bias: bool = True
    offset: float = 0.0


NormConfig = RMSNormConfig | LayerNormConfig
