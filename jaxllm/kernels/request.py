"""What is known of a call of attention before it runs, and of the device that it is to run on."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jaxllm.kernels.inputs import Inputs, Scores


@dataclass(frozen=True)
class Request:
    """The shapes (B, T, S, N, K, H, V by their names), the dtypes and the features of a call."""

    batch: int
    queries: int
    keys: int
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    dtype: jnp.dtype
    scores: Scores
    offsets: bool = True
    lengths: bool = False
    sinks: bool = False
    quantized: bool = False
    shared_value: bool = False

    @classmethod
    def of(cls, inputs: Inputs, scores: Scores) -> "Request":
        """The request that a call with these inputs is."""
        (batch, queries, heads, head_dim), (_, keys, kv_heads, _) = inputs.query.shape, inputs.key.shape
        value_dim = scores.value_dim if inputs.value is None else inputs.value.shape[-1]
        return cls(
            *(batch, queries, keys, heads, kv_heads, head_dim, value_dim or head_dim),
            dtype=jnp.dtype(inputs.query.dtype),
            scores=scores,
            offsets=inputs.offsets is not None,
            lengths=inputs.lengths is not None,
            sinks=inputs.sinks is not None,
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
        """That of one of JAX's devices."""
        platform = "cuda" if device.platform == "gpu" else device.platform
        if platform == "cuda" and "rocm" in device.client.platform_version:
            platform = "rocm"
        capability = float(getattr(device, "compute_capability", 0) or 0) if platform == "cuda" else 0.0
        return cls(platform, device.device_kind, capability)
