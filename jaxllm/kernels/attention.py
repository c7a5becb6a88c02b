"""The entry point to attention: it selects a kernel for the call and the device, and runs it."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import jax

from jaxllm.kernels.blockwise import BLOCKS, blockwise
from jaxllm.kernels.call import AttentionCall, Device
from jaxllm.kernels.gradient import attention_gradient
from jaxllm.kernels.reference import reference
from jaxllm.kernels.spec import AttentionInputs, AttentionOutput, AttentionSpec, alibi_slopes
from jaxllm.kernels.target import target
from jaxllm.sharding import shard_map_by_axes

Run = Callable[[AttentionInputs, AttentionSpec], AttentionOutput]


class Kernel(NamedTuple):
    """An attention kernel for one platform.

    Attributes:
      platform: platform that it runs on.
      run: computes attention.
      unsupported_reason: says why it cannot serve a call on a device; None if it can.
      rounds_lse: whether it rounds the log-sum-exps to the dtype of the queries, which is too coarse for gradients.
    """

    platform: str
    run: Run
    unsupported_reason: Callable[[AttentionCall, Device], str | None]
    rounds_lse: bool = False


class KernelChoice(NamedTuple):
    """The name of the kernel that serves a call, and the reason for the choice."""

    kernel: str
    reason: str


def _kernel(name: str, platform: str, **options: bool) -> Kernel:
    """Returns the kernel of the module of that name, which is imported at its first use: importing Pallas is slow."""
    module = f"jaxllm.kernels.{name}"
    run = partial(_call, module, name)
    unsupported_reason = partial(_call, module, "unsupported_reason")
    return Kernel(platform, run, unsupported_reason, **options)


def _call(module: str, function: str, *args: Any) -> Any:
    return getattr(import_module(module), function)(*args)


# In order of preference. Calls that none of them supports are served by XLA.
KERNELS: dict[str, Kernel] = {
    "flash_gpu": _kernel("flash_gpu", "cuda"),
    "cudnn": _kernel("cudnn", "cuda", rounds_lse=True),
    "flash_tpu": _kernel("flash_tpu", "tpu"),
}
XLA: dict[str, Run] = {"reference": reference, "blockwise": blockwise}

_QUERY: Any = ("batch", "time", "heads", "head")
_KEY: Any = ("batch", "kv_heads", "keys", "head")
_ROW: Any = ("batch",)
_HEAD: Any = ("heads",)
_AXES = AttentionInputs(_QUERY, _KEY, _KEY, _ROW, _ROW, _HEAD, _KEY[:3], _KEY[:3], _HEAD)


def attention(inputs: AttentionInputs, spec: AttentionSpec) -> AttentionOutput:
    """Computes attention of query [B T N H] on key [B K S H] and value [B K S V], with N // K query heads per key head.

    On a mesh each device computes its own rows and heads. Key-value heads that are fewer than the devices must be
    repeated before (`jaxllm.sharding.kv_head_replicas`).

    Returns:
      The outputs [B T N V], and the log-sum-exps [B T N] by which outputs of several ranges of keys can be merged.

    Raises:
      ValueError: the number of query heads is not a multiple of the number of key-value heads.
    """
    heads = inputs.query.shape[2]
    kv_heads = inputs.key.shape[1]
    if heads % kv_heads:
        raise ValueError(f"{heads} query heads cannot share {kv_heads} key-value heads evenly")
    inputs = inputs._replace(slopes=alibi_slopes(inputs, spec))
    axes: Any = [None if x is None else names for x, names in zip(inputs, _AXES, strict=True)]
    return shard_map_by_axes(
        partial(_dispatch, spec), inputs, AttentionInputs(*axes), AttentionOutput(_QUERY, _QUERY[:3])
    )


def select_kernel(call: AttentionCall, device: Device, validated: frozenset[str] = frozenset()) -> KernelChoice:
    """Selects the kernel that serves a call on a device.

    A kernel other than XLA's is selected only if it is among `validated`, the kernels that have equalled the reference
    on this device. Lowering does not prove that a kernel is right, or fast, on a chip that it has not run on.
    """
    reasons = []
    for name, kernel in KERNELS.items():
        if kernel.platform != device.platform:
            continue
        unsupported = kernel.unsupported_reason(call, device)
        if unsupported is None and name in validated:
            reasons.append(f"equals the reference on this {device.kind}")
            return KernelChoice(name, "; ".join(reasons))
        reasons.append(f"{name}: {unsupported or 'not yet compared on this device (jaxllm doctor --kernels)'}")
    if call.queries <= BLOCKS.queries and call.keys <= BLOCKS.keys:
        reasons.append("all scores fit into one block")
        return KernelChoice("reference", "; ".join(reasons))
    reasons.append("scores are computed block by block")
    return KernelChoice("blockwise", "; ".join(reasons))


def _dispatch(spec: AttentionSpec, inputs: AttentionInputs) -> AttentionOutput:
    """Runs the selected kernel. The program contains XLA's kernel as well, for other platforms to be lowered to."""
    current = target()
    kernel = select_kernel(AttentionCall.of(inputs, spec), current.device, current.validated).kernel
    if kernel == "reference":
        return reference(inputs, spec)
    return _differentiable(kernel, spec, inputs)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _differentiable(kernel: str, spec: AttentionSpec, inputs: AttentionInputs) -> AttentionOutput:
    return _run_kernel(kernel, spec, inputs)


def _run_kernel(kernel: str, spec: AttentionSpec, inputs: AttentionInputs) -> AttentionOutput:
    if kernel in XLA:
        return XLA[kernel](inputs, spec)
    selected = KERNELS[kernel]
    branches: dict[str, Any] = {selected.platform: lambda inputs: selected.run(inputs, spec)}
    return jax.lax.platform_dependent(inputs, **branches, default=lambda inputs: blockwise(inputs, spec))


def _forward(
    kernel: str, spec: AttentionSpec, inputs: AttentionInputs
) -> tuple[AttentionOutput, tuple[AttentionInputs, AttentionOutput]]:
    if kernel in KERNELS and KERNELS[kernel].rounds_lse:
        kernel = "blockwise"  # gradients need exact log-sum-exps
    output = _run_kernel(kernel, spec, inputs)
    return output, (inputs, output)


def _backward(
    kernel: str, spec: AttentionSpec, residuals: tuple[AttentionInputs, AttentionOutput], cotangent: AttentionOutput
) -> tuple[AttentionInputs]:
    inputs, output = residuals
    return (attention_gradient(inputs, spec, output, cotangent, BLOCKS),)


_differentiable.defvjp(_forward, _backward)
