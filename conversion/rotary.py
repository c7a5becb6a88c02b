"""Rotary settings in both of Transformers' spellings: `rope_theta` + `rope_scaling` (v4), `rope_parameters` (v5)."""

import math
from typing import Any

from conversion.keys import Keys
from jaxllm import config
from jaxllm.errors import InputError


def rotary(keys: Keys, max_length: int, default_theta: float = 10_000.0) -> tuple[config.Rotary, int]:
    """The rotary part of a config, and the context that its scaling extends `max_length` to.

    Raises:
        InputError: an unknown scaling, a key of it that is unknown or missing, or two spellings that disagree.
    """
    theta = keys.number("rope_theta", default_theta)
    keys.neutral("partial_rotary_factor", (1, None))
    old, new = (_spelling(keys, name) for name in ("rope_scaling", "rope_parameters"))
    if any(old[key] != new[key] for key in old.keys() & new.keys()):
        raise InputError("config.json: rope_scaling and rope_parameters disagree")
    scaling = Keys(old | new, "config.json: rope_parameters")
    theta, kind = float(scaling.number("rope_theta", theta)), scaling.take("rope_type", "default")
    if not isinstance(kind, str) or kind not in _SCALINGS:
        raise InputError(f"config.json: rope type {kind!r} is not supported; known: {', '.join(_SCALINGS)}")
    scaling.neutral("partial_rotary_factor", (1, None))
    part, context = _SCALINGS[kind](scaling, max_length)
    scaling.finish()
    return config.Rotary(theta, part), context


def _spelling(keys: Keys, name: str) -> dict[str, Any]:
    """One of the two objects, its kind under `rope_type`; both of the names for it may be there."""
    given = dict(keys.take(name, None, (dict, type(None))) or {})
    if "type" in given and given.setdefault("rope_type", given["type"]) != given.pop("type"):
        raise InputError(f"config.json: {name} has a type and another rope_type")
    return given


def _default(keys: Keys, length: int) -> tuple[None, int]:
    return None, length


def _linear(keys: Keys, length: int) -> tuple[config.LinearScaling, int]:
    factor = float(keys.number("factor"))
    return config.LinearScaling(factor), int(length * factor)


def _dynamic(keys: Keys, length: int) -> tuple[config.DynamicScaling, int]:
    keys.take("original_max_position_embeddings", None)  # Transformers' formula goes by max_position_embeddings
    factor = float(keys.number("factor"))
    return config.DynamicScaling(factor, length), int(length * factor)


def _yarn(keys: Keys, length: int) -> tuple[config.YarnScaling, int]:
    original = keys.size("original_max_position_embeddings", length)
    keys.take("finetuned", None)  # how the model was made
    factor = float(keys.number("factor"))
    attention_factor = keys.take("attention_factor", None, (int, float, type(None)))
    mscale, all_dim = (keys.take(name, None, (int, float, type(None))) for name in ("mscale", "mscale_all_dim"))
    if attention_factor is None:
        both = mscale and all_dim
        attention_factor = _mscale(factor, mscale) / _mscale(factor, all_dim) if both else _mscale(factor, 1)
    return config.YarnScaling(
        factor,
        original,
        float(attention_factor),
        float(keys.number("beta_fast", 32)),
        float(keys.number("beta_slow", 1)),
        keys.flag("truncate", True),
    ), max(length, int(original * factor))


def _mscale(factor: float, scale: Any) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _llama3(keys: Keys, length: int) -> tuple[config.Llama3Scaling, int]:
    original = keys.size("original_max_position_embeddings", length)
    factors = (float(keys.number(name)) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    factor, low, high = factors
    return config.Llama3Scaling(factor, original, low, high), length


_SCALINGS = {"default": _default, "linear": _linear, "dynamic": _dynamic, "yarn": _yarn, "llama3": _llama3}
