"""The programs of generation for devices that need not be there, with shapes in place of arrays."""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.stages import Lowered

from jaxllm import config
from jaxllm.cache import Cache
from jaxllm.generation.decode import Limits, State, begin, decode, prefill
from jaxllm.generation.tokens import PREFILL_CHUNK
from jaxllm.kernels.target import Target, aim
from jaxllm.models.decoder import abstract
from jaxllm.planning.memory import cache_partition
from jaxllm.sampling import Sampler


class Programs(NamedTuple):
    """What `jaxllm.generate` has compiled: one reads prompts, the other goes on from the state that leaves."""

    prefill: Lowered
    decode: Lowered


def programs(
    part: config.Decoder,
    dtype: Any,
    mesh: Mesh,
    batch: int,
    prompt: int,
    capacity: int,
    *,
    offload: bool = False,
    platform: str | None = None,
    target: Target | None = None,
) -> Programs:
    """Prefill of `batch` prompts of `prompt` tokens, and decoding, in a cache of `capacity` positions; greedy.

    They are lowered for the platform of the mesh's devices, which may come from `jax.experimental.topologies`, or for
    another one, of which the devices are then placeholders; attention is made for a `target`, or for the device that is
    here. `.compile()` is the caller's.

    Raises:
        InputError: the model does not divide over the mesh.
    """
    platforms = (platform or mesh.devices.flat[0].platform,)
    model = abstract(part, dtype, mesh, offload)

    def whole(shape: tuple[int, ...], dtype: Any) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec()))

    size = min(prompt, PREFILL_CHUNK)
    tokens, lengths, steps = (whole(shape, jnp.int32) for shape in ((batch, size), (batch,), ()))
    sampler, limits = Sampler.of(), Limits(whole((1,), jnp.int32), lengths)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch))
    with jax.set_mesh(mesh), nullcontext() if target is None else aim(target):
        cache, last = _placed(begin.trace(model, batch, capacity).out_info, mesh), None
        if size < prompt:  # the last chunk of several
            cache, last = replace(cache, lengths=lengths), whole((batch, 1, part.embed_dim), dtype)
        rest = None, whole(keys.shape, keys.dtype), sampler, limits
        reading = prefill.trace(model, cache, last, tokens, lengths, *rest)
        state = _placed(reading.out_info[0], mesh)
        going_on = decode.trace(model, state, sampler, limits, steps)
        return Programs(*(traced.lower(lowering_platforms=platforms) for traced in (reading, going_on)))


def _placed(state: Cache | State, mesh: Mesh) -> Any:
    """A state or a cache where programs leave it: a cache split as its heads are, all else whole on every device."""

    def place(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        kept = leaf.ndim > 1 and {"entries", "tokens"} & {getattr(at, "name", None) for at in path}
        at = cache_partition(leaf.shape, mesh) if kept else PartitionSpec()
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, at))

    return jax.tree_util.tree_map_with_path(place, state)
