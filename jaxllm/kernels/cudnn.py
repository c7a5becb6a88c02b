"""cuDNN's flash attention for NVIDIA's Ampere and newer, through `jax.nn.dot_product_attention`."""

from typing import Literal

import jax
import jax.numpy as jnp

from jaxllm.kernels.inputs import NOTHING, Inputs, Mixed, Scores
from jaxllm.kernels.request import Device, Request


def refusal(request: Request, device: Device) -> str | None:
    """Why a call cannot be served by `cudnn` on such a device, or None."""
    scores, largest = request.scores, 256 if device.capability >= 9 else 128
    shifted, windowed = scores.causal and request.offsets, scores.window is not None
    reasons = {
        "cuDNN runs on NVIDIA GPUs of compute capability 8.0 and newer": device.platform != "cuda"
        or device.capability < 8,
        f"cuDNN multiplies bfloat16 and float16, not {request.dtype}": request.dtype not in (jnp.bfloat16, jnp.float16),
        f"cuDNN takes heads of a multiple of 8 up to {largest}, not {request.head_dim}": request.head_dim % 8
        or request.head_dim > largest,
        "JAX gives cuDNN values as large as keys": request.value_dim != request.head_dim,
        "cuDNN reads keys as wide as queries": request.quantized,
        "cuDNN has no soft cap, chunks or ALiBi here": (scores.softcap, scores.chunk, scores.alibi) != (None,) * 3,
        "JAX rounds the logarithm that sinks need to the queries' type": request.sinks,
        "cuDNN's first query stands at position 0": shifted and (request.queries > 1 or windowed),
        "cuDNN's windows are causal": windowed and not scores.causal,
        "cuDNN's windows take no more queries than keys": windowed and request.queries > request.keys,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def cudnn(inputs: Inputs, scores: Scores, *, implementation: Literal["cudnn", "xla"] = "cudnn") -> Mixed:
    """Attention of query [B T N H] on key and value [B S K H]; `xla` has the same meaning on any device.

    JAX rounds the logarithms to the queries' type. A single causal query sees a row's keys up to its own position,
    whatever that is: they are the row's length, and nothing else is hidden.

    Raises:
        RuntimeError: there is no cuDNN.
    """
    queries, keys = inputs.query.shape[1], inputs.key.shape[1]
    lengths, causal = inputs.lengths, scores.causal
    if causal and inputs.offsets is not None:
        lengths, causal = jnp.minimum(inputs.offsets + 1, keys if lengths is None else lengths), False
    if lengths is not None:
        lengths = jnp.clip(lengths, 0, keys)
    out, lse = jax.nn.dot_product_attention(
        inputs.query,
        inputs.key,
        inputs.key if inputs.value is None else inputs.value,
        scale=scores.scale,
        is_causal=causal,
        key_value_seq_lengths=lengths,
        local_window_size=None if scores.window is None else (scores.window - 1, 0),
        implementation=implementation,
        return_residual=True,
    )
    lse = lse.astype(jnp.float32)
    if lengths is None:
        return Mixed(out, lse)
    first = jnp.arange(queries) - (queries if scores.window is None else scores.window - 1)
    seen = (jnp.maximum(first, 0) < lengths[:, None])[..., None]  # what cuDNN gives without a key is not defined
    return Mixed(jnp.where(seen[..., None], out, 0), jnp.where(seen, lse, NOTHING))
