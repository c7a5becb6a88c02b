"""Builds norm configs from the keys that most configs have."""

from conversion.config_reader import ConfigReader
from jaxllm.config import RMSNormConfig


def rms_norm(reader: ConfigReader, eps: float = 1e-6, offset: float = 0.0) -> RMSNormConfig:
    """Builds the norm of a config that has its epsilon in `rms_norm_eps`."""
    return RMSNormConfig(float(reader.number("rms_norm_eps", eps)), offset)
