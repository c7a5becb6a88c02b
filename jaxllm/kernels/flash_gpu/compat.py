"""What differs between the versions of JAX that are supported."""

from typing import Any

import jax
from jax.experimental.pallas import mosaic_gpu as plgpu

FILLS = jax.__version_info__ >= (0, 12)  # whether interpreted copies get zeros from outside of an array, as on a GPU


def interpreter() -> Any:
    """Parameters under which a kernel is interpreted on the CPU, and races are errors."""
    params = getattr(plgpu, "InterpretGPUParams", None)
    if params is None:  # private before JAX 0.11
        from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams as params
    return params(detect_races=True)


def load(reference: Any, layout: Any) -> jax.Array:
    """What is in global memory, straight to registers."""
    load: Any = plgpu.load
    where = (reference,) if jax.__version_info__ >= (0, 12) else (reference, ())
    return load(*where, layout=layout, optimized=False)
