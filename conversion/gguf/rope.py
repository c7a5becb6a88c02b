"""Reads the rotary settings of a GGUF file, and returns them with the keys of Transformers v4."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from conversion.gguf.metadata import GGUFModel
from conversion.gguf.reader import STORED

# Kinds of scaling that are told by tensors.
TENSORS = {
    "llama3": ("rope_freqs.weight",),
    "longrope": ("rope_factors_long.weight", "rope_factors_short.weight"),
}
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def rope(model: GGUFModel, theta: str = "rope_theta", partial: str | None = None) -> dict[str, Any]:
    """Returns the rotary keys of config.json; `theta` and `partial` are Hugging Face's names of two of them.

    Raises:
      InputError: the kind of scaling is unknown, or the file does not describe it completely.
    """
    base = model.number("rope.freq_base", 10_000.0)
    dim = model.sizes["rope_dim"]
    head_dim = model.sizes["head_dim"]
    if dim % 2 or dim > head_dim or (partial is None and dim != head_dim):
        raise model.error(f"{model.key('rope.dimension_count')}={dim} is not supported for heads of size {head_dim}")
    kind = model.keys.take(model.key("rope.scaling.type"), "none", (str,))
    if kind not in ("none", "linear", "yarn", "longrope"):
        raise model.error(f"{model.key('rope.scaling.type')}={kind[:40]!r} is not supported")
    if kind == "none":  # the tensors alone tell
        kind = next((kind for kind, names in TENSORS.items() if model.has(names[0])), kind)
    for other, (name, *_) in TENSORS.items():
        if other != kind and model.has(name):
            raise model.error(f"tensor {name}: not handled beside rotary scaling of type {kind!r}")
    scaling = _SCALINGS[kind](model, base)
    return {
        theta: base,
        **({partial: _fraction(dim, head_dim)} if partial else {}),
        **({"rope_scaling": {"rope_type": kind, **scaling}} if scaling else {}),
    }


def _fraction(dim: int, head_dim: int) -> float:
    """Returns the `partial_rotary_factor` from which Transformers computes `dim` exactly."""
    return next(f for f in (dim / head_dim, math.nextafter(dim / head_dim, 2)) if int(head_dim * f) == dim)


def _none(model: GGUFModel, base: float) -> dict[str, Any]:
    model.keys.neutral(model.key("rope.scaling.factor"), (0.0, 1.0))
    model.keys.take(model.key("rope.scaling.original_context_length"), None)  # what a scaling would start from
    return {}


def _linear(model: GGUFModel, base: float) -> dict[str, Any]:
    model.keys.take(model.key("rope.scaling.original_context_length"), None)
    factor = model.number("rope.scaling.factor")
    if factor == 1.0:
        return {}
    return {"factor": factor}


def _yarn(model: GGUFModel, base: float) -> dict[str, Any]:
    model.keys.neutral(model.key("rope.scaling.yarn_ext_factor"), (1.0,))
    names = {"attention_factor": "attn_factor", "beta_fast": "beta_fast", "beta_slow": "beta_slow"}
    optional = {name: model.number_or_none(f"rope.scaling.yarn_{own}") for name, own in names.items()}
    return {
        "factor": model.number("rope.scaling.factor"),
        "original_max_position_embeddings": model.size("rope.scaling.original_context_length"),
        **{name: value for name, value in optional.items() if value is not None},
    }


def _llama3(model: GGUFModel, base: float) -> dict[str, Any]:
    """Returns the settings from which the divisors of the frequencies were computed.

    The file has only the divisors: the settings of Llama 3 are tried, and the result is compared.

    The formula is that of `generate_extra_tensors` in llama.cpp's conversion/llama.py.
    """
    _none(model, base)
    divisors = _vector(model, "rope_freqs.weight")
    dim, low, high, length = model.sizes["rope_dim"], *LLAMA3.values()
    waves = 2 * math.pi * base ** (np.arange(0, dim, 2) / dim)
    factor = float(divisors.max())
    smooth = np.clip((length / waves - low) / (high - low), 0, 1)
    if not (1 <= factor < 1e6 and np.allclose(divisors, 1 / ((1 - smooth) / factor + smooth), rtol=1e-4, atol=0)):
        raise model.error("tensor rope_freqs.weight: not the scaling of Llama 3, and no other is known")
    if factor == 1.0:
        return {}
    return {"factor": factor, **LLAMA3}


def _longrope(model: GGUFModel, base: float) -> dict[str, Any]:
    """Returns LongRoPE's factors. The attention factor must be the one that Transformers computes of the lengths."""
    context = model.sizes["context"]
    original = model.size("rope.scaling.original_context_length", context)
    ratio = context / original
    factor = 1.0
    if ratio > 1 < original:
        factor = math.sqrt(1 + math.log(ratio) / math.log(original))
    given = model.number("rope.scaling.attn_factor", factor)
    if abs(given - factor) > 1e-4:
        raise model.error(
            f"{model.key('rope.scaling.attn_factor')}={given} is not {factor:.6g}, the one for its lengths"
        )
    factors = (_vector(model, f"rope_factors_{name}.weight") for name in ("short", "long"))
    short, long = ([float(str(value)) for value in factor] for factor in factors)
    return {"short_factor": short, "long_factor": long, "original_max_position_embeddings": original}


def _vector(model: GGUFModel, name: str) -> np.ndarray:
    """Returns a tensor with one number for each frequency."""
    tensor = model.tensors.get(name)
    if tensor is None or tensor.kind not in STORED or tensor.shape != (model.sizes["rope_dim"] // 2,):
        raise model.error(f"tensor {name}: missing, or not of {model.sizes['rope_dim'] // 2} floating-point values")
    return tensor.read().astype(np.float32)


_SCALINGS: dict[str, Callable[[GGUFModel, float], dict[str, Any]]] = {
    "none": _none,
    "linear": _linear,
    "yarn": _yarn,
    "llama3": _llama3,
    "longrope": _longrope,
}
