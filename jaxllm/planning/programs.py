"""Lowers the programs of generation for devices that need not be present."""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.stages import Lowered

from jaxllm.cache import Cache
from jaxllm.config import DecoderConfig
from jaxllm.generation.decode import DecodeState, Limits, decode, new_cache, prefill
from jaxllm.generation.sampling import Sampler
from jaxllm.generation.tokens import PREFILL_CHUNK
from jaxllm.kernels.target import Target, override_target
from jaxllm.models.abstract import abstract
from jaxllm.models.decoder import Decoder
from jaxllm.nn.layer_stack import cache_specs


class LoweredPrograms(NamedTuple):
    """The two programs of `jaxllm.generate`: prefill and decode."""

    prefill: Lowered
    decode: Lowered


def programs(
    config: DecoderConfig,
    dtype: Any,
    mesh: Mesh,
    batch: int,
    prompt: int,
    capacity: int,
    *,
    offload: bool = False,
    platform: str | None = None,
    target: Target | None = None,
) -> LoweredPrograms:
    """Lowers greedy prefill of `batch` prompts of `prompt` tokens, and decoding, in a cache of `capacity` positions.

    Args:
      config: the model.
      dtype: dtype to compute in.
      mesh: mesh of the devices, which may come from `jax.experimental.topologies`.
      batch: number of rows.
      prompt: length of the prompts.
      capacity: capacity of the cache.
      offload: whether the layers are in host memory.
      platform: platform to lower for; by default that of the mesh's devices.
      target: target of attention; by default the present device.

    Raises:
      InputError: the model cannot be split over the mesh.
    """
    platforms = (platform or mesh.devices.flat[0].platform,)
    model = abstract(config, dtype, mesh, offload)

    def whole(shape: tuple[int, ...], dtype: Any) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec()))

    size = min(prompt, PREFILL_CHUNK)
    tokens, lengths, steps = (whole(shape, jnp.int32) for shape in ((batch, size), (batch,), ()))
    sampler = Sampler()
    limits = Limits(whole((1,), jnp.int32), lengths)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch))
    with jax.set_mesh(mesh), nullcontext() if target is None else override_target(target):
        cache = _placed_cache(model, new_cache.trace(model, batch, capacity).out_info, mesh)
        last = None
        if size < prompt:  # the last chunk of several
            cache = replace(cache, lengths=lengths)
            last = whole((batch, 1, config.embed_dim), dtype)
        rest = None, whole(keys.shape, keys.dtype), sampler, limits
        reading = prefill.trace(model, cache, last, tokens, lengths, *rest)
        state = _placed_state(model, reading.out_info[0], mesh)
        going_on = decode.trace(model, state, sampler, limits, steps)
        return LoweredPrograms(*(traced.lower(lowering_platforms=platforms) for traced in (reading, going_on)))


def _placed_state(model: Decoder, state: DecodeState, mesh: Mesh) -> DecodeState:
    """Returns a decode state with the shardings that programs leave it with: all but the cache is whole."""
    whole = jax.tree.map(lambda x: _placed(x, PartitionSpec(), mesh), replace(state, cache=None))  # pyright: ignore
    return replace(whole, cache=_placed_cache(model, state.cache, mesh))


def _placed_cache(model: Decoder, cache: Cache, mesh: Mesh) -> Cache:
    """Returns a cache with the shardings that programs leave it with."""
    specs = Cache(model.layers.cache_specs(cache.layers, mesh), None, None)
    if cache.lengths is not None:
        specs = replace(specs, lengths=PartitionSpec())
    if cache.tokens is not None:
        specs = replace(specs, tokens=cache_specs(cache.tokens, mesh))
    return jax.tree.map(lambda x, spec: _placed(x, spec, mesh), cache, specs)


def _placed(x: Any, spec: PartitionSpec, mesh: Mesh) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))
