"""Flash attention for Hopper GPUs: prefill, and decoding over long caches."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxllm.kernels.flash_gpu import compat
from jaxllm.kernels.flash_gpu.body import Body, Global, Memory
from jaxllm.kernels.flash_gpu.operations import Hopper, Interpreted
from jaxllm.kernels.flash_gpu.plan import ROWS, Plan, Tiles, plan, refusal, unserved
from jaxllm.kernels.flash_gpu.softmax import Softmax
from jaxllm.kernels.inputs import Inputs, Mixed, Scores, slopes_of
from jaxllm.kernels.request import Request

__all__ = ["Plan", "Tiles", "flash_gpu", "plan", "refusal"]


def flash_gpu(inputs: Inputs, scores: Scores, *, tiles: Tiles | None = None, interpret: bool = False) -> Mixed:
    """Attention by a Pallas Mosaic GPU kernel, after FlashAttention-3 (Shah et al. 2024).

    Query [B T N H], key [B S K H] and value [B S K V] give out [B T N V] and lse [B T N]; `refusal` says of what
    requests it does not serve. `tiles` are for tuning; `interpret` runs it on the CPU, slowly, without a GPU.

    Few queries over many keys are attended to by several thread blocks, whose parts are combined (Dao et al. 2023,
    flash decoding).

    Raises ValueError for what it does not serve, and for tiles that would ask for more registers than there are.
    """
    request = Request.of(inputs, scores)
    if reason := unserved(request):
        raise ValueError(reason)
    cut = plan(request, tiles or Tiles())
    out, lse = launch(cut, inputs, interpret)  # [X B R N V], [X B N R]
    out, lse = (out[0], lse[0]) if cut.splits == 1 else combine(out, lse)
    mixed = Mixed(unpacked(out, cut), unpacked(lse.swapaxes(1, 2)[..., None], cut)[..., 0])
    mixed = mixed if inputs.sinks is None else with_sinks(mixed, inputs.sinks)
    return mixed._replace(out=mixed.out.astype(inputs.query.dtype))


def launch(cut: Plan, inputs: Inputs, interpret: bool) -> tuple[jax.Array, jax.Array]:
    """Runs the kernel: out [X B R N V] and lse [X B N R], with the plan's rows and heads, and rows that pad them."""
    operations = Interpreted() if interpret else Hopper()
    body = Body(cut, Softmax(cut, operations), operations)

    def flash_attention(*arrays: Any, **memory: Any) -> None:  # whose name profiles show
        body(Global(*arrays), Memory(**memory))

    batch, rows = cut.request.batch, cut.blocks * cut.block if cut.stored == ROWS else cut.stored
    run = plgpu.kernel(
        flash_attention,
        out_type=(
            jax.ShapeDtypeStruct((cut.splits, batch, rows, cut.heads, cut.request.value_dim), cut.out_dtype),
            jax.ShapeDtypeStruct((cut.splits, batch, cut.heads, rows), jnp.float32),
        ),
        scratch_types=memory(cut),
        grid=(batch, cut.splits, cut.heads, cut.blocks),
        grid_names=("batch", "split", "head", "block"),
        num_threads=cut.warpgroups + 1,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(approx_math=True, reduction_scratch_bytes=0),
        interpret=compat.interpreter() if interpret else None,
    )
    return run(*given(cut, inputs, interpret))


def memory(cut: Plan) -> dict[str, Any]:
    """The types of `Memory`."""
    request, groups, depth = cut.request, cut.warpgroups, cut.depth
    types = {
        "query": tiled((groups, ROWS, request.head_dim), request.dtype),
        "key": tiled((depth, cut.keys, request.head_dim), request.dtype),
        "value": tiled((depth, cut.keys, request.value_dim), request.dtype),
        "lse": plgpu.SMEM((groups, ROWS), jnp.float32),
        "query_come": plgpu.Barrier(num_barriers=groups),
        "key_come": plgpu.Barrier(num_barriers=depth),
        "value_come": plgpu.Barrier(num_barriers=depth),
        "key_free": plgpu.Barrier(num_arrivals=groups, num_barriers=depth),
        "value_free": plgpu.Barrier(num_arrivals=groups, num_barriers=depth),
        "turn": plgpu.Barrier(num_barriers=groups),
    }
    return types if cut.aliased else types | {"out": tiled((groups, ROWS, request.value_dim), cut.out_dtype)}


def tiled(shape: tuple[int, ...], dtype: jnp.dtype) -> Any:
    """Shared memory in the tiles of 8 rows that wgmma reads, as wide and so swizzled as a size of a row allows."""
    columns = math.gcd(shape[-1], 128 // dtype.itemsize)
    transforms = plgpu.TilingTransform((8, columns)), plgpu.SwizzleTransform(columns * dtype.itemsize)
    return plgpu.SMEM(shape, dtype, transforms=transforms)


def given(cut: Plan, inputs: Inputs, interpret: bool) -> tuple[jax.Array, ...]:
    """What the kernel reads: see `Global`. Keys are copied only if few or no multiple of 8."""
    request = cut.request
    query = inputs.query.reshape(request.batch, request.queries, cut.heads, cut.pack, request.head_dim)
    query = query.swapaxes(2, 3).reshape(request.batch, cut.rows, cut.heads, request.head_dim)
    query = pad(query, 1, cut.block)
    whole = cut.keys if interpret and not compat.FILLS else 8
    key, value = (pad(array.swapaxes(1, 2), 2, whole, cut.keys) for array in inputs[1:3] if array is not None)
    offsets = jnp.zeros(request.batch, jnp.int32) if inputs.offsets is None else inputs.offsets
    lengths = request.keys if inputs.lengths is None else jnp.minimum(inputs.lengths, request.keys)
    lengths = jnp.broadcast_to(jnp.asarray(lengths, jnp.int32), request.batch)
    heads = jnp.arange(cut.blocks * cut.block if cut.pack > 1 else ROWS) % cut.pack  # that rows are of
    scores, slopes = request.scores, slopes_of(inputs, request.scores)
    if scores.alibi is None or slopes is None:
        slopes = jnp.zeros(request.heads, jnp.float32)
    else:
        slopes = slopes * scores.alibi.scale
    return query, key, value, offsets.astype(jnp.int32), lengths, slopes.reshape(cut.heads, cut.pack)[:, heads]


def pad(array: jax.Array, axis: int, multiple: int, least: int = 0) -> jax.Array:
    """The array with zeros after an axis, to a multiple and no less than `least`."""
    size = array.shape[axis]
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, max(-(-size // multiple) * multiple, least) - size)
    return jnp.pad(array, widths) if widths[axis][1] else array


def combine(out: jax.Array, lse: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Parts out [X B R N V] and lse [X B N R] of one softmax: out [B R N V] and lse [B N R]."""
    total = jax.nn.logsumexp(lse, axis=0)
    weights = jnp.exp(lse - total).swapaxes(2, 3)[..., None]
    return (out * weights).sum(axis=0), total


def with_sinks(mixed: Mixed, sinks: jax.Array) -> Mixed:
    """The same out [B T N V] and lse [B T N] had there been one more key, with scores `sinks` [N] and no value."""
    lse = jnp.logaddexp(mixed.lse, sinks.astype(jnp.float32))
    return Mixed(mixed.out * jnp.exp(mixed.lse - lse)[..., None], lse)


def unpacked(rows: jax.Array, cut: Plan) -> jax.Array:
    """Rows [B R N V] as queries of heads [B T N V]."""
    batch, queries, size = cut.request.batch, cut.request.queries, rows.shape[-1]
    rows = rows[:, : cut.rows].reshape(batch, queries, cut.pack, cut.heads, size)
    return rows.swapaxes(2, 3).reshape(batch, queries, cut.request.heads, size)
