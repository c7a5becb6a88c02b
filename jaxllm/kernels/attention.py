"""The one entry point to attention, the kernels behind it, and the choice between them."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import jax

from jaxllm.kernels.blockwise import BLOCKS, blockwise
from jaxllm.kernels.gradient import gradient
from jaxllm.kernels.inputs import Inputs, Mixed, Scores, slopes_of
from jaxllm.kernels.reference import reference
from jaxllm.kernels.request import Device, Request
from jaxllm.kernels.target import target
from jaxllm.shares import on_shares

Run = Callable[[Inputs, Scores], Mixed]


class Kernel(NamedTuple):
    """An implementation for one platform, and what it says to calls that it cannot serve (None to others).

    Logarithms that it rounds to the queries' dtype are good for no gradient.
    """

    platform: str
    run: Run
    refusal: Callable[[Request, Device], str | None]
    rounds_lse: bool = False


class Choice(NamedTuple):
    """The name of a kernel, and why it is that one."""

    kernel: str
    reason: str


def _kernel(name: str, platform: str, **more: bool) -> Kernel:
    """That of a module of its name, which is imported when it is first asked: Pallas takes its time."""
    run, refusal = (partial(_call, f"jaxllm.kernels.{name}", function) for function in (name, "refusal"))
    return Kernel(platform, run, refusal, **more)


def _call(module: str, function: str, *args: Any) -> Any:
    return getattr(import_module(module), function)(*args)


# In the order of preference; for calls that all of them refuse there are those of XLA.
KERNELS: dict[str, Kernel] = {
    "flash_gpu": _kernel("flash_gpu", "cuda"),
    "cudnn": _kernel("cudnn", "cuda", rounds_lse=True),
    "flash_tpu": _kernel("flash_tpu", "tpu"),
}
XLA: dict[str, Run] = {"reference": reference, "blockwise": blockwise}

_QUERY: Any = ("batch", "time", "heads", "head")
_KEY: Any = ("batch", "time", "kv_heads", "head")
_AXES = _QUERY, _KEY, _KEY, ("batch",), ("batch",), ("heads",), _KEY[:3], _KEY[:3], ("heads",)  # of `Inputs`


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array | None = None,
    *,
    scores: Scores,
    offsets: jax.Array | None = None,
    lengths: jax.Array | None = None,
    sinks: jax.Array | None = None,
    key_scale: jax.Array | None = None,
    value_scale: jax.Array | None = None,
) -> Mixed:
    """Attention of query [B T N H] on key [B S K H] and value [B S K V], N // K queries to a key.

    Returns values mixed [B T N V], and the logarithms [B T N] of what weights were divided by, by which results on
    several ranges of keys can be combined. `Inputs` says what the arguments mean, `Scores` which keys a query sees.
    On a mesh each device computes its own rows and heads; fewer key-value heads than devices are to be repeated first
    (`jaxllm.shares.copies`).

    Raises:
        ValueError: key-value heads that query heads cannot share evenly.
    """
    inputs = Inputs(query, key, value, offsets, lengths, sinks, key_scale, value_scale)
    inputs = inputs._replace(slopes=slopes_of(inputs, scores))
    if query.shape[2] % key.shape[2]:
        raise ValueError(f"{query.shape[2]} query heads cannot share {key.shape[2]} key-value heads evenly")
    axes: Any = [None if x is None else its for x, its in zip(inputs, _AXES, strict=True)]
    return on_shares(partial(_mixed, scores), inputs, Inputs(*axes), Mixed(_QUERY, _QUERY[:3]))


def choose(request: Request, device: Device, proven: frozenset[str] = frozenset()) -> Choice:
    """Which kernel serves a call on a device, on which those that are `proven` have equalled the reference.

    All but XLA's own are taken only if they are among them: neither that it lowers nor that it is right can be taken
    for granted of a kernel on a chip that it has not been tried on.
    """
    said = []
    for name, kernel in KERNELS.items():
        if kernel.platform != device.platform:
            continue
        refusal = kernel.refusal(request, device)
        if refusal is None and name in proven:
            return Choice(name, "; ".join([*said, f"equals the reference on this {device.kind}"]))
        said.append(f"{name}: {refusal or 'not yet compared on this device (jaxllm doctor --kernels)'}")
    if request.queries <= BLOCKS.queries and request.keys <= BLOCKS.keys:
        return Choice("reference", "; ".join([*said, "all scores are one block, and nothing is simpler"]))
    return Choice("blockwise", "; ".join([*said, "scores a block at a time, those that count"]))


def _mixed(scores: Scores, inputs: Inputs) -> Mixed:
    """By the kernel that is chosen: it stands beside XLA's, which are what other platforms are lowered to."""
    aimed, request = target(), Request.of(inputs, scores)
    chosen = choose(request, aimed.device, aimed.proven).kernel
    if chosen == "reference":
        return reference(inputs, scores)
    return _differentiable(chosen, scores, inputs)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _differentiable(kernel: str, scores: Scores, inputs: Inputs) -> Mixed:
    return _run(kernel, scores, inputs)


def _run(kernel: str, scores: Scores, inputs: Inputs) -> Mixed:
    if kernel in XLA:
        return XLA[kernel](inputs, scores)
    chosen = KERNELS[kernel]
    branches: dict[str, Any] = {chosen.platform: lambda inputs: chosen.run(inputs, scores)}
    return jax.lax.platform_dependent(inputs, **branches, default=lambda inputs: blockwise(inputs, scores))


def _forward(kernel: str, scores: Scores, inputs: Inputs) -> tuple[Mixed, tuple[Inputs, Mixed]]:
    rounded = kernel in KERNELS and KERNELS[kernel].rounds_lse
    made = _run("blockwise" if rounded else kernel, scores, inputs)  # as it is, for gradients to have derivatives
    return made, (inputs, made)


def _backward(kernel: str, scores: Scores, kept: tuple[Inputs, Mixed], wanted: Mixed) -> tuple[Inputs]:
    inputs, made = kept
    return (gradient(inputs, scores, made, wanted, BLOCKS),)


_differentiable.defvjp(_forward, _backward)
