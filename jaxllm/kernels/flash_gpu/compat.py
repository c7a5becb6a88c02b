"""Differences between the supported versions of JAX."""

from typing import Any

import jax
from jax.experimental.pallas import mosaic_gpu as plgpu

FILLS = jax.__version_info__ >= (0, 12)  # whether interpreted copies read zeros beyond an array, as on a GPU


def interpreter() -> Any:
    """Returns the parameters that interpret a kernel on the CPU and detect races."""
    params = getattr(plgpu, "InterpretGPUParams", None)
    if params is None:  # private before JAX 0.11
        from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams as params
    return params(detect_races=True)


def load(reference: Any, layout: Any) -> jax.Array:
    """Loads from global memory into registers."""
    load: Any = plgpu.load
    where = (reference,) if jax.__version_info__ >= (0, 12) else (reference, ())
    return load(*where, layout=layout, optimized=False)
