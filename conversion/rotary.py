"""Rotary settings in both of Transformers' spellings: `rope_theta` + `rope_scaling` (v4), `rope_parameters` (v5)."""

import math
from collections.abc import Mapping
from typing import Any

from conversion.keys import Keys
from jaxllm import config
from jaxllm.errors import InputError


def rotary(
    keys: Keys,
    max_length: int,
    head_dim: int,
    *,
    theta: float = 10_000.0,
    fraction: float | None = None,
    interleaved: bool = False,
    original: int | None = None,
    default: dict[str, Any] | None = None,
    renamed: Mapping[str, str] | None = None,
) -> tuple[config.Rotary, int]:
    """The rotary part of a config, and the context that its scaling extends `max_length` to.

    `theta`, `fraction` (how much of each head is turned: `partial_rotary_factor`) and `original` (the
    `original_max_position_embeddings` beside `max_position_embeddings`) stand where the config gives none; without a
    `fraction` the architecture knows no such thing. `default` stands for both spellings where there
    is neither; `renamed` are an architecture's own names of scalings.

    Raises:
        InputError: an unknown scaling, a key of it that is unknown or missing, or two spellings that disagree.
    """
    theta, fraction = keys.number("rope_theta", theta), _fraction(keys, fraction)
    original = keys.size_or_none("original_max_position_embeddings", original)
    given = keys.peek("rope_parameters") is not None  # an empty object stands for no scaling
    old, new = (_spelling(keys, name) for name in ("rope_scaling", "rope_parameters"))
    beside = {"rope_theta": theta, "partial_rotary_factor": fraction}
    beside["original_max_position_embeddings"] = original or max_length
    settings = _older(old, new, beside) or dict({} if given else default or {})
    if original is not None and settings.setdefault("original_max_position_embeddings", original) != original:
        raise InputError("config.json: original_max_position_embeddings stands twice, with different values")
    kind = settings.get("rope_type")
    if renamed and isinstance(kind, str):
        settings["rope_type"] = renamed.get(kind, kind)
    return _rotary(Keys(settings, "config.json: rope_parameters"), max_length, head_dim, theta, fraction, interleaved)


def rotary_by_layer_type(
    keys: Keys, max_length: int, head_dim: int, defaults: dict[str, float]
) -> tuple[dict[str, config.Rotary], int]:
    """As `rotary`, for a config whose `rope_parameters` hold an object for each layer type, with a default base.

    The older `rope_scaling` is full attention's, and so is the context.
    """
    older = keys.peek("rope_scaling")
    if isinstance(older, dict) and "type" in older and "rope_type" not in older:
        raise InputError("config.json: rope_scaling: type is not supported, rope_type is")  # v5 of theirs ignores it
    nested = Keys(keys.take("rope_parameters", None, (dict, type(None))) or {}, "config.json: rope_parameters")
    old, parts, contexts = {"full_attention": _spelling(keys, "rope_scaling")}, {}, {}
    for kind, theta in defaults.items():
        given = _spelling(nested, kind)
        merged = given | _older(old.get(kind, {}), given, beside=given)
        settings = Keys(merged, f"config.json: rope_parameters: {kind}")
        parts[kind], contexts[kind] = _rotary(settings, max_length, head_dim, theta, None, False)
    nested.finish()
    return parts, contexts["full_attention"]


def _rotary(
    keys: Keys, max_length: int, head_dim: int, theta: float, fraction: float | None, interleaved: bool
) -> tuple[config.Rotary, int]:
    keys.alias("rope_type", "type")
    theta, fraction = float(keys.number("rope_theta", theta)), _fraction(keys, fraction)
    part, context = keys.choice("rope_type", _SCALINGS, "default")(keys, max_length)
    keys.finish()
    dim = None if fraction in (None, 1) else int(head_dim * fraction)
    return config.Rotary(theta, part, dim, interleaved), context


def _fraction(keys: Keys, default: float | None) -> float | None:
    if default is None:
        return keys.neutral("partial_rotary_factor", (1, None))
    if (fraction := keys.number_or_none("partial_rotary_factor", default)) is None:  # no two models make the same of it
        raise InputError("config.json: partial_rotary_factor=None is not supported")
    return fraction


def _spelling(keys: Keys, name: str) -> dict[str, Any]:
    """One of the two objects, its kind under `rope_type`; both of the names for it may be there."""
    given = dict(keys.take(name, None, (dict, type(None))) or {})
    if "type" in given and given.setdefault("rope_type", given["type"]) != given.pop("type"):
        raise InputError(f"config.json: {name} has a type and another rope_type")
    return given


def _older(old: dict[str, Any], new: dict[str, Any], beside: dict[str, Any]) -> dict[str, Any]:
    """The older of the spellings if there, as Transformers has it; the newer may but repeat it and what is beside."""
    if old and any((beside | old).get(key) != value for key, value in new.items()):
        raise InputError("config.json: rope_scaling and rope_parameters disagree")
    return old or new


def _default(keys: Keys, length: int) -> tuple[None, int]:
    keys.take("original_max_position_embeddings", None)
    return None, length


def _linear(keys: Keys, length: int) -> tuple[config.LinearScaling, int]:
    keys.take("original_max_position_embeddings", None)
    factor = float(keys.number("factor"))
    return config.LinearScaling(factor), int(length * factor)


def _dynamic(keys: Keys, length: int) -> tuple[config.DynamicScaling, int]:
    keys.take("original_max_position_embeddings", None)  # Transformers' formula goes by max_position_embeddings
    factor = float(keys.number("factor"))
    return config.DynamicScaling(factor, length), int(length * factor)


_MSCALES = ("mscale", "mscale_all_dim")  # 0 stands for none


def _yarn(keys: Keys, length: int) -> tuple[config.YarnScaling, int]:
    original = keys.size("original_max_position_embeddings", length)
    keys.take("finetuned", None)  # how the model was made
    factor = float(keys.number("factor"))
    attention_factor = keys.number_or_none("attention_factor")
    mscale, all_dim = (keys.number(name) if keys.peek(name) else keys.take(name, None) for name in _MSCALES)
    if attention_factor is None:
        both = mscale and all_dim
        attention_factor = mscale_of(factor, mscale) / mscale_of(factor, all_dim) if both else mscale_of(factor, 1)
    return config.YarnScaling(
        factor,
        original,
        float(attention_factor),
        float(keys.number("beta_fast", 32)),
        float(keys.number("beta_slow", 1)),
        keys.flag("truncate", True),
    ), max(length, int(original * factor))


def mscale_of(factor: float, scale: Any) -> float:
    """Yarn's temperature for a scaling factor."""
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def temperature(keys: Keys) -> float:
    """What DeepSeek's scores are multiplied by: the square of yarn's for `mscale_all_dim`. Takes no key."""
    for name in ("rope_parameters", "rope_scaling"):
        settings = keys.peek(name)
        if isinstance(settings, dict) and settings.get("mscale_all_dim"):
            given = Keys(settings, f"config.json: {name}")
            return mscale_of(float(given.number("factor")), given.number("mscale_all_dim")) ** 2
    return 1.0


def _llama3(keys: Keys, length: int) -> tuple[config.Llama3Scaling, int]:
    original = keys.size("original_max_position_embeddings", length)
    factors = (float(keys.number(name)) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    factor, low, high = factors
    return config.Llama3Scaling(factor, original, low, high), length


def _longrope(keys: Keys, length: int) -> tuple[config.LongScaling, int]:
    original = keys.size("original_max_position_embeddings", length)
    if original == 1:  # its logarithm divides
        raise InputError("config.json: rope_parameters: original_max_position_embeddings=1 is not supported")
    factor = keys.number_or_none("factor") or length / original
    attention_factor = keys.number_or_none("attention_factor")
    if attention_factor is None:
        attention_factor = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    short, long = (tuple(map(float, keys.numbers(name))) for name in ("short_factor", "long_factor"))
    return config.LongScaling(short, long, original, float(attention_factor)), length


_SCALINGS = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "llama3": _llama3,
    "longrope": _longrope,
}
