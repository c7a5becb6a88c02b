"""Compares kernels with the reference on the present device: their errors, and the errors that are allowed."""

from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.kernels.attention import Kernel, Run
from jaxllm.kernels.call import AttentionCall, Device
from jaxllm.kernels.cases import CASES, DTYPES, Case
from jaxllm.kernels.reference import reference
from jaxllm.kernels.spec import MIN_LSE, AttentionInputs, AttentionOutput, AttentionSpec

RELATIVE = 2e-6  # of the largest number, the accuracy of float32
REPEATS = 3  # runs of each case: a race between threads may go unnoticed in one


class Comparison(NamedTuple):
    """The largest errors of outputs and log-sum-exps for one case and dtype, and their bounds.

    `failure` describes the exception, if there was one.
    """

    case: str
    dtype: str
    out_error: float = np.inf
    out_bound: float = 0.0
    lse_error: float = np.inf
    lse_bound: float = 0.0
    failure: str | None = None

    @property
    def excess(self) -> float:
        """The larger of the two errors, as a multiple of its bound."""
        pairs = (self.out_error, self.out_bound), (self.lse_error, self.lse_bound)
        return max(np.inf if np.isnan(error) or not bound else error / bound for error, bound in pairs)

    @property
    def passed(self) -> bool:
        """Whether both errors are within their bounds."""
        return self.excess <= 1


def supported_cases(kernel: Kernel, device: Device, cases: Iterable[Case] = CASES) -> list[tuple[Case, str]]:
    """Returns the cases that a kernel supports on a device, in each dtype."""
    pairs = [(case, dtype) for case in cases for dtype in DTYPES]
    return [
        (c, d) for c, d in pairs if kernel.unsupported_reason(AttentionCall.of(c.shapes(d), c.spec), device) is None
    ]


def compare_cases(kernel: Kernel, pairs: Iterable[tuple[Case, str]]) -> Iterator[Comparison]:
    """Yields the comparison of each case. A case that fails in any way does not end the others."""
    for case, dtype in pairs:
        try:
            yield compare(case, dtype, kernel.run, kernel.rounds_lse)
        except Exception as error:  # compilers and devices raise exceptions of any class
            said = " ".join(str(error).split())[:200]
            yield Comparison(case.name, dtype, failure=f"{type(error).__name__}: {said}")


def compare(case: Case, dtype: str, run: Run, rounds_lse: bool = False) -> Comparison:
    """Runs a kernel on the default device and references on the CPU.

    Outputs may differ from a float64 reference by 2e-6 of the largest output (times `case.sharp`, since scores are
    rounded in proportion). In bfloat16 and float16 they may differ by twice what a reference in that dtype does.
    Log-sum-exps may differ by 2e-6 of the largest, or of 1, and in 16 bits by an eighth of the dtype's precision: this
    error scales the weight of a range of keys when ranges are merged. A kernel with `rounds_lse` may differ by that
    rounding.

    Raises:
      ValueError: the result has another shape or dtype.
    """
    inputs = case.inputs(dtype)
    scores = case.spec
    exact = _on_cpu(in_float64(inputs), scores, x64=True)
    coarse = _on_cpu(inputs, scores, x64=False)
    program = jax.jit(lambda inputs: run(inputs, scores))
    found = [jax.tree.map(np.asarray, program(inputs)) for _ in range(REPEATS)]
    _check(found[0], coarse)
    out, lse = (float(worst) for worst in np.max([max_errors(each, exact) for each in found], axis=0))
    out_bound = RELATIVE * case.sharp * float(np.abs(exact.out).max())
    lse_bound = RELATIVE * max(1.0, float(np.abs(exact.lse[exact.lse > MIN_LSE]).max(initial=0)))
    if dtype != "float32":
        out_bound = max(out_bound, 2 * max_errors(coarse, exact)[0])
        eps = float(jnp.finfo(dtype).eps)
        rounding = 0
        if rounds_lse:
            rounding = eps / 2 * lse_bound / RELATIVE
        lse_bound = max(lse_bound, eps / 8) + rounding
    return Comparison(case.name, dtype, out, out_bound, lse, lse_bound)


def max_errors(found: AttentionOutput, exact: AttentionOutput) -> tuple[float, float]:
    """Returns the largest errors of outputs and log-sum-exps; infinite if a query without keys has a result."""
    hidden = exact.lse <= MIN_LSE
    strange = np.where(found.lse <= MIN_LSE, np.abs(found.out.astype(np.float64)).max(axis=-1) > 0, True)
    out = np.abs(found.out.astype(np.float64) - exact.out).max(axis=-1)
    lse = np.abs(np.where(hidden, 0, found.lse) - np.where(hidden, 0, exact.lse))
    return float(out.max()), float(np.where(hidden & strange, np.inf, lse).max())


def in_float64(inputs: AttentionInputs) -> AttentionInputs:
    """Converts inputs to float64, except for integers, quantized arrays, and slopes, which are always float32."""
    kept = {"offsets", "lengths", "slopes"} | ({"key", "value"} if inputs.key_scale is not None else set())
    wide: dict[str, Any] = {name: x for name, x in inputs._asdict().items() if x is not None and name not in kept}
    return inputs._replace(**{name: x.astype(np.float64) for name, x in wide.items()})


def _on_cpu(inputs: AttentionInputs, spec: AttentionSpec, x64: bool) -> AttentionOutput:
    with jax.enable_x64(x64), jax.default_device(jax.devices("cpu")[0]):
        return jax.tree.map(np.asarray, _reference(spec)(inputs))


@cache
def _reference(spec: AttentionSpec) -> Callable[[AttentionInputs], AttentionOutput]:
    """Compiles the reference for all dtypes of a case with few optimizations, which takes half the time."""
    return jax.jit(partial(reference, spec=spec), compiler_options={"xla_backend_optimization_level": 0})


def _check(found: AttentionOutput, like: AttentionOutput) -> None:
    given, wanted = (", ".join(f"{x.dtype}{list(x.shape)}" for x in mixed) for mixed in (found, like))
    if given != wanted:
        raise ValueError(f"gives {given}, not {wanted}")
