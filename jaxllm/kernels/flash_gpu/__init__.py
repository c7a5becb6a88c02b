"""Flash attention for Hopper GPUs: prefill, and decoding over long caches."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxllm.kernels.call import AttentionCall
from jaxllm.kernels.flash_gpu import compat
from jaxllm.kernels.flash_gpu.body import Body, GlobalMemory, SharedMemory
from jaxllm.kernels.flash_gpu.operations import Hopper, Interpreted
from jaxllm.kernels.flash_gpu.plan import ROWS, LaunchPlan, Tiles, plan_launch, unsupported_call, unsupported_reason
from jaxllm.kernels.flash_gpu.softmax import Softmax
from jaxllm.kernels.spec import AttentionInputs, AttentionOutput, AttentionSpec, alibi_slopes

__all__ = ["LaunchPlan", "Tiles", "flash_gpu", "plan_launch", "unsupported_reason"]


def flash_gpu(
    inputs: AttentionInputs, spec: AttentionSpec, *, tiles: Tiles | None = None, interpret: bool = False
) -> AttentionOutput:
    """Computes attention by a Pallas Mosaic GPU kernel, after FlashAttention-3 (Shah et al. 2024).

    Few queries over many keys are processed by several thread blocks, whose partial results are merged (flash decoding,
    Dao et al. 2023).

    Args:
      inputs: query [B T N H], key [B K S H] and value [B K S V].
      spec: how scores are computed and masked.
      tiles: tile sizes, for tuning.
      interpret: runs the kernel on the CPU, slowly and without a GPU.

    Raises:
      ValueError: the call is not supported (see `unsupported_reason`), or the tiles need too many registers.
    """
    call = AttentionCall.of(inputs, spec)
    if reason := unsupported_call(call):
        raise ValueError(reason)
    launch_plan = plan_launch(call, tiles or Tiles())
    out, lse = launch(launch_plan, inputs, interpret)  # [X B R N V], [X B N R]
    out, lse = (out[0], lse[0]) if launch_plan.splits == 1 else combine_splits(out, lse)
    output = AttentionOutput(
        unpack_rows(out, launch_plan), unpack_rows(lse.swapaxes(1, 2)[..., None], launch_plan)[..., 0]
    )
    if inputs.sinks is not None:
        output = with_sinks(output, inputs.sinks)
    return output._replace(out=output.out.astype(inputs.query.dtype))


def launch(launch_plan: LaunchPlan, inputs: AttentionInputs, interpret: bool) -> tuple[jax.Array, jax.Array]:
    """Runs the kernel: out [X B R N V] and lse [X B N R], with the plan's rows and heads, and padding rows."""
    operations = Interpreted() if interpret else Hopper()
    body = Body(launch_plan, Softmax(launch_plan, operations), operations)

    def flash_attention(*arrays: Any, **memory: Any) -> None:  # profiles show this name
        body(GlobalMemory(*arrays), SharedMemory(**memory))

    batch = launch_plan.call.batch
    if launch_plan.stored == ROWS:
        rows = launch_plan.blocks * launch_plan.block
    else:
        rows = launch_plan.stored
    run = plgpu.kernel(
        flash_attention,
        out_type=(
            jax.ShapeDtypeStruct(
                (launch_plan.splits, batch, rows, launch_plan.heads, launch_plan.call.value_dim), launch_plan.out_dtype
            ),
            jax.ShapeDtypeStruct((launch_plan.splits, batch, launch_plan.heads, rows), jnp.float32),
        ),
        scratch_types=shared_memory(launch_plan),
        grid=(batch, launch_plan.splits, launch_plan.heads, launch_plan.blocks),
        grid_names=("batch", "split", "head", "block"),
        num_threads=launch_plan.warpgroups + 1,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(approx_math=True, reduction_scratch_bytes=0),
        interpret=compat.interpreter() if interpret else None,
    )
    return run(*kernel_arguments(launch_plan, inputs, interpret))


def shared_memory(launch_plan: LaunchPlan) -> dict[str, Any]:
    """Returns the types of `SharedMemory`."""
    request = launch_plan.call
    groups = launch_plan.warpgroups
    depth = launch_plan.depth
    types = {
        "query": tiled((groups, ROWS, request.head_dim), request.dtype),
        "key": tiled((depth, launch_plan.keys, request.head_dim), request.dtype),
        "value": tiled((depth, launch_plan.keys, request.value_dim), request.dtype),
        "lse": plgpu.SMEM((groups, ROWS), jnp.float32),
        "query_come": plgpu.Barrier(num_barriers=groups),
        "key_come": plgpu.Barrier(num_barriers=depth),
        "value_come": plgpu.Barrier(num_barriers=depth),
        "key_free": plgpu.Barrier(num_arrivals=groups, num_barriers=depth),
        "value_free": plgpu.Barrier(num_arrivals=groups, num_barriers=depth),
        "turn": plgpu.Barrier(num_barriers=groups),
    }
    if launch_plan.reuses_query_memory:
        return types
    return types | {"out": tiled((groups, ROWS, request.value_dim), launch_plan.out_dtype)}


def tiled(shape: tuple[int, ...], dtype: jnp.dtype) -> Any:
    """Returns shared memory in the tiles of 8 rows that wgmma reads, with the widest swizzle that a row allows."""
    columns = math.gcd(shape[-1], 128 // dtype.itemsize)
    transforms = plgpu.TilingTransform((8, columns)), plgpu.SwizzleTransform(columns * dtype.itemsize)
    return plgpu.SMEM(shape, dtype, transforms=transforms)


def kernel_arguments(launch_plan: LaunchPlan, inputs: AttentionInputs, interpret: bool) -> tuple[jax.Array, ...]:
    """Returns the arrays of `GlobalMemory`. Keys are copied only if they are few, or not a multiple of 8."""
    call = launch_plan.call
    query = inputs.query.reshape(call.batch, call.queries, launch_plan.heads, launch_plan.pack, call.head_dim)
    query = query.swapaxes(2, 3).reshape(call.batch, launch_plan.rows, launch_plan.heads, call.head_dim)
    query = pad(query, 1, launch_plan.block)
    multiple = 8
    if interpret and not compat.FILLS:
        multiple = launch_plan.keys
    key, value = (pad(array, 2, multiple, launch_plan.keys) for array in inputs[1:3] if array is not None)
    offsets = inputs.offsets_or_zeros().astype(jnp.int32)
    lengths = jnp.minimum(inputs.lengths_or_all(), call.keys).astype(jnp.int32)
    return query, key, value, offsets, lengths, _row_slopes(launch_plan, inputs)


def _row_slopes(launch_plan: LaunchPlan, inputs: AttentionInputs) -> jax.Array:
    """Returns the scaled ALiBi slope of each row of each head, [N R]; zeros without ALiBi."""
    call = launch_plan.call
    slopes = alibi_slopes(inputs, call.spec)
    if call.spec.alibi is None or slopes is None:
        slopes = jnp.zeros(call.heads, jnp.float32)
    else:
        slopes = slopes * call.spec.alibi.scale
    rows = ROWS
    if launch_plan.pack > 1:
        rows = launch_plan.blocks * launch_plan.block
    heads = jnp.arange(rows) % launch_plan.pack  # head of each row
    return slopes.reshape(launch_plan.heads, launch_plan.pack)[:, heads]


def pad(array: jax.Array, axis: int, multiple: int, least: int = 0) -> jax.Array:
    """Appends zeros along an axis, up to a multiple and at least to `least`."""
    size = array.shape[axis]
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, max(-(-size // multiple) * multiple, least) - size)
    if widths[axis][1]:
        return jnp.pad(array, widths)
    return array


def combine_splits(out: jax.Array, lse: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Merges partial out [X B R N V] and lse [X B N R] of one softmax into out [B R N V] and lse [B N R]."""
    total = jax.nn.logsumexp(lse, axis=0)
    weights = jnp.exp(lse - total).swapaxes(2, 3)[..., None]
    return (out * weights).sum(axis=0), total


def with_sinks(output: AttentionOutput, sinks: jax.Array) -> AttentionOutput:
    """Adds attention sinks [N], scores without a value, to out [B T N V] and lse [B T N]."""
    lse = jnp.logaddexp(output.lse, sinks.astype(jnp.float32))
    return AttentionOutput(output.out * jnp.exp(output.lse - lse)[..., None], lse)


def unpack_rows(rows: jax.Array, launch_plan: LaunchPlan) -> jax.Array:
    """Returns rows [B R N V] as queries of heads [B T N V]."""
    batch = launch_plan.call.batch
    queries = launch_plan.call.queries
    size = rows.shape[-1]
    rows = rows[:, : launch_plan.rows].reshape(batch, queries, launch_plan.pack, launch_plan.heads, size)
    return rows.swapaxes(2, 3).reshape(batch, queries, launch_plan.call.heads, size)
