"""cuDNN's flash attention for NVIDIA Ampere and newer, through `jax.nn.dot_product_attention`."""

from typing import Literal

import jax
import jax.numpy as jnp

from jaxllm.kernels.call import AttentionCall, Device
from jaxllm.kernels.spec import MIN_LSE, AttentionInputs, AttentionOutput, AttentionSpec


def unsupported_reason(call: AttentionCall, device: Device) -> str | None:
    """Returns why cuDNN cannot serve a call on a device; None if it can."""
    spec = call.spec
    largest = 256 if device.capability >= 9 else 128
    if device.platform != "cuda" or device.capability < 8:
        return "cuDNN runs on NVIDIA GPUs of compute capability 8.0 and newer"
    if call.dtype not in (jnp.bfloat16, jnp.float16):
        return f"cuDNN multiplies bfloat16 and float16, not {call.dtype}"
    if call.head_dim % 8 or call.head_dim > largest:
        return f"cuDNN takes heads of a multiple of 8 up to {largest}, not {call.head_dim}"
    if call.value_dim != call.head_dim:
        return "JAX gives cuDNN values as large as keys"
    if call.quantized:
        return "cuDNN reads keys as wide as queries"
    if spec.softcap is not None or spec.chunk is not None or spec.alibi is not None:
        return "cuDNN has no soft cap, chunks or ALiBi here"
    if call.has_sinks:
        return "JAX rounds the log-sum-exp that sinks need to the queries' dtype"
    if spec.causal and call.has_offsets:
        return "cuDNN's first query stands at position 0"
    if call.queries == 1:
        return "JAX would copy the cache for cuDNN at every decode step"
    return _unsupported_window(call)


def _unsupported_window(call: AttentionCall) -> str | None:
    if call.spec.window is None:
        return None
    if not call.spec.causal:
        return "cuDNN's windows are causal"
    if call.queries > call.keys:
        return "cuDNN's windows take no more queries than keys"
    return None


def cudnn(
    inputs: AttentionInputs, spec: AttentionSpec, *, implementation: Literal["cudnn", "xla"] = "cudnn"
) -> AttentionOutput:
    """Computes attention of query [B T N H] on key and value [B K S H] by cuDNN, or by XLA on any device.

    cuDNN reads [B S K H]: keys and values are transposed. JAX rounds the log-sum-exps to the dtype of the queries.

    Raises:
      RuntimeError: cuDNN is not available.
    """
    queries = inputs.query.shape[1]
    key = inputs.key.swapaxes(1, 2)
    lengths = None
    if inputs.lengths is not None:
        lengths = jnp.clip(inputs.lengths, 0, inputs.key.shape[2])
    out, lse = jax.nn.dot_product_attention(
        inputs.query,
        key,
        key if inputs.value is None else inputs.value.swapaxes(1, 2),
        scale=spec.scale,
        is_causal=spec.causal,
        key_value_seq_lengths=lengths,
        local_window_size=None if spec.window is None else (spec.window - 1, 0),
        implementation=implementation,
        return_residual=True,
    )
    lse = lse.astype(jnp.float32)
    if lengths is None:
        return AttentionOutput(out, lse)
    first = jnp.arange(queries) - (queries if spec.window is None else spec.window - 1)
    seen = (jnp.maximum(first, 0) < lengths[:, None])[..., None]  # cuDNN's result is undefined for a query without keys
    return AttentionOutput(jnp.where(seen[..., None], out, 0), jnp.where(seen, lse, MIN_LSE))
