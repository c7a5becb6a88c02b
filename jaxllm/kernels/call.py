"""The static description of an attention call, and of the device that it runs on: what kernels are selected by."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jaxllm.kernels.spec import AttentionInputs, AttentionSpec


@dataclass(frozen=True)
class AttentionCall:
    """Shapes (B, T, S, N, K, H, V), dtype and features of an attention call."""

    batch: int
    queries: int
    keys: int
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    dtype: jnp.dtype
    spec: AttentionSpec
    has_offsets: bool = True
    has_sinks: bool = False
    quantized: bool = False
    shared_value: bool = False

    @classmethod
    def of(cls, inputs: AttentionInputs, spec: AttentionSpec) -> "AttentionCall":
        """Returns the description of a call with these inputs."""
        batch, queries, heads, head_dim = inputs.query.shape
        _, kv_heads, keys, _ = inputs.key.shape
        value_dim = spec.value_dim if inputs.value is None else inputs.value.shape[-1]
        return cls(
            *(batch, queries, keys, heads, kv_heads, head_dim, value_dim or head_dim),
            dtype=jnp.dtype(inputs.query.dtype),
            spec=spec,
            has_offsets=inputs.offsets is not None,
            has_sinks=inputs.sinks is not None,
            quantized=inputs.key_scale is not None,
            shared_value=inputs.value is None,
        )


@dataclass(frozen=True)
class Device:
    """A kind of device: platform ("cpu", "cuda", "rocm", "tpu"), name, and for CUDA the compute capability."""

    platform: str
    kind: str = ""
    capability: float = 0.0

    @classmethod
    def of(cls, device: Any) -> "Device":
        """Returns the kind of one of JAX's devices."""
        platform = "cuda"
        if device.platform != "gpu":
            platform = device.platform
        if platform == "cuda" and "rocm" in device.client.platform_version:
            platform = "rocm"
        capability = 0.0
        if platform == "cuda":
            capability = float(getattr(device, "compute_capability", 0) or 0)
        return cls(platform, device.device_kind, capability)
