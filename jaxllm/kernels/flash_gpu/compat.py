"""What differs between the versions of JAX that are supported."""

from typing import Any

import jax
from jax.experimental.pallas import mosaic_gpu as plgpu

FILLS = jax.__version_info__ >= (
    0,
    12,
)  # whether the interpreter fills what copies find outside of an array, as a GPU does


def interpreter() -> Any:
    """Parameters under which a kernel is interpreted on the CPU."""
    params = getattr(plgpu, "InterpretGPUParams", None)
    if params is None:  # private before JAX 0.11
        from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams as params
    return params(detect_races=True)
