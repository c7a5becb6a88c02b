"""Kernels beside the reference on the device that is here: how far off they are, and how far off they may be."""

from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.kernels.attention import Kernel, Run
from jaxllm.kernels.cases import CASES, DTYPES, Case
from jaxllm.kernels.inputs import NOTHING, Inputs, Mixed, Scores
from jaxllm.kernels.reference import reference
from jaxllm.kernels.request import Device, Request

RELATIVE = 2e-6  # of the largest number: what float32 comes to
REPEATS = 3  # runs of each case: what threads do in no certain order may be right in one


class Compared(NamedTuple):
    """The largest errors of values mixed and of logarithms in one case and dtype, beside their bounds.

    `failure` is what was raised instead, if anything.
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
        """The larger of both errors, as a multiple of its bound."""
        pairs = (self.out_error, self.out_bound), (self.lse_error, self.lse_bound)
        return max(np.inf if np.isnan(error) or not bound else error / bound for error, bound in pairs)

    @property
    def passed(self) -> bool:
        """Whether both are within their bounds."""
        return self.excess <= 1


def accepted(kernel: Kernel, device: Device, cases: Iterable[Case] = CASES) -> list[tuple[Case, str]]:
    """The cases that a kernel does not refuse on a device, in each dtype."""
    pairs = [(case, dtype) for case in cases for dtype in DTYPES]
    return [(c, d) for c, d in pairs if kernel.refusal(Request.of(c.shapes(d), c.scores), device) is None]


def compared(kernel: Kernel, pairs: Iterable[tuple[Case, str]]) -> Iterator[Compared]:
    """Each case of `accepted`, one after the other; one that fails in any way at all does not end them."""
    for case, dtype in pairs:
        try:
            yield compare(case, dtype, kernel.run, kernel.rounds_lse)
        except Exception as error:  # whatever a compiler or a device may say
            said = " ".join(str(error).split())[:200]
            yield Compared(case.name, dtype, failure=f"{type(error).__name__}: {said}")


def compare(case: Case, dtype: str, run: Run, rounds_lse: bool = False) -> Compared:
    """Runs a kernel on the default device beside references on the CPU.

    Values may differ from those of a float64 reference by 2e-6 of the largest of them (times `case.sharp`: scores are
    rounded in proportion), and in bfloat16 and float16 by twice what a reference in that dtype differs by. Logarithms
    may by 2e-6 of the largest, of 1 at least, and in 16 bits by an eighth of the dtype's precision: it is by how much
    the weight of a range of keys is off when ranges are combined. Those of a kernel that says it rounds them may be off
    by that rounding.

    Raises:
        ValueError: what comes back has another shape or dtype.
    """
    inputs, scores = case.inputs(dtype), case.scores
    exact, coarse = _on_cpu(in_float64(inputs), scores, x64=True), _on_cpu(inputs, scores, x64=False)
    program = jax.jit(lambda inputs: run(inputs, scores))
    found = [jax.tree.map(np.asarray, program(inputs)) for _ in range(REPEATS)]
    _check(found[0], coarse)
    out, lse = (float(worst) for worst in np.max([errors(each, exact) for each in found], axis=0))
    out_bound = RELATIVE * case.sharp * float(np.abs(exact.out).max())
    lse_bound = RELATIVE * max(1.0, float(np.abs(exact.lse[exact.lse > NOTHING]).max(initial=0)))
    if dtype != "float32":
        out_bound = max(out_bound, 2 * errors(coarse, exact)[0])
        eps = float(jnp.finfo(dtype).eps)
        rounding = eps / 2 * lse_bound / RELATIVE if rounds_lse else 0
        lse_bound = max(lse_bound, eps / 8) + rounding
    return Compared(case.name, dtype, out, out_bound, lse, lse_bound)


def errors(found: Mixed, exact: Mixed) -> tuple[float, float]:
    """The largest differences of values mixed and of logarithms; infinite where what sees nothing has anything."""
    hidden = exact.lse <= NOTHING
    strange = np.where(found.lse <= NOTHING, np.abs(found.out.astype(np.float64)).max(axis=-1) > 0, True)
    out = np.abs(found.out.astype(np.float64) - exact.out).max(axis=-1)
    lse = np.abs(np.where(hidden, 0, found.lse) - np.where(hidden, 0, exact.lse))
    return float(out.max()), float(np.where(hidden & strange, np.inf, lse).max())


def in_float64(inputs: Inputs) -> Inputs:
    """The same numbers in float64, but for whole ones, those stored narrowly, and slopes, which are always float32."""
    kept = {"offsets", "lengths", "slopes"} | ({"key", "value"} if inputs.key_scale is not None else set())
    wide: dict[str, Any] = {name: x for name, x in inputs._asdict().items() if x is not None and name not in kept}
    return inputs._replace(**{name: x.astype(np.float64) for name, x in wide.items()})


def _on_cpu(inputs: Inputs, scores: Scores, x64: bool) -> Mixed:
    with jax.enable_x64(x64), jax.default_device(jax.devices("cpu")[0]):
        return jax.tree.map(np.asarray, _reference(scores)(inputs))


@cache
def _reference(scores: Scores) -> Callable[[Inputs], Mixed]:
    """A program for all dtypes of a case, which compiles in half the time that one for speed does."""
    return jax.jit(partial(reference, scores=scores), compiler_options={"xla_backend_optimization_level": 0})


def _check(found: Mixed, like: Mixed) -> None:
    given, wanted = (", ".join(f"{x.dtype}{list(x.shape)}" for x in mixed) for mixed in (found, like))
    if given != wanted:
        raise ValueError(f"gives {given}, not {wanted}")
