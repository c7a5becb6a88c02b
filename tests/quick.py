"""Programs that compile in a quarter of the time: most of the suite's goes into compiling.

Little is optimised, by the quicker of XLA's two emitters while it has two; the programs are the same before that, the
collectives of a mesh included.
"""

from functools import partial
from inspect import unwrap

import jax

from jaxllm.generation import decode as programs

_OPTIONS = {"xla_backend_optimization_level": 0, "xla_cpu_parallel_codegen_split_count": 1}
if jax.__version_info__ < (0, 11):
    _OPTIONS["xla_cpu_use_fusion_emitters"] = False

jit = partial(jax.jit, compiler_options=_OPTIONS)
new_cache = jit(unwrap(programs.new_cache), static_argnames=("batch", "capacity", "dtype"))
prefill_chunk = jit(unwrap(programs.prefill_chunk), donate_argnames="cache")
prefill = jit(unwrap(programs.prefill), donate_argnames="cache")
decode = jit(unwrap(programs.decode), donate_argnames="state")
