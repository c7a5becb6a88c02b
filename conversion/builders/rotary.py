"""Reads rotary settings in both spellings of Transformers: `rope_theta` + `rope_scaling` and `rope_parameters`."""

import math
from collections.abc import Mapping
from typing import Any

from conversion.config_reader import ConfigReader
from jaxllm.config import (
    DynamicNTKScalingConfig,
    LinearScalingConfig,
    Llama3ScalingConfig,
    LongRoPEScalingConfig,
    RotaryConfig,
    YarnScalingConfig,
)
from jaxllm.errors import InputError


def rotary(
    reader: ConfigReader,
    max_length: int,
    head_dim: int,
    *,
    theta: float = 10_000.0,
    fraction: float | None = None,
    interleaved: bool = False,
    original: int | None = None,
    default: dict[str, Any] | None = None,
    renamed: Mapping[str, str] | None = None,
) -> tuple[RotaryConfig, int]:
    """Builds the rotary config, and returns it with the maximum length that its scaling extends `max_length` to.

    Args:
      reader: the keys of the config.
      max_length: maximum length before scaling.
      head_dim: size of a head.
      theta: default of the base.
      fraction: default of `partial_rotary_factor`, the rotated share of a head; None if the architecture has no such
        key.
      interleaved: whether the two dimensions of a pair are neighbors.
      original: default of `original_max_position_embeddings`, if that is a key next to `max_position_embeddings`.
      default: default of both spellings.
      renamed: the architecture's own names of scalings.

    Raises:
      InputError: the scaling is unknown, one of its keys is unknown or missing, or the two spellings disagree.
    """
    theta = reader.number("rope_theta", theta)
    fraction = _fraction(reader, fraction)
    original = reader.size_or_none("original_max_position_embeddings", original)
    given = reader.peek("rope_parameters") is not None  # an empty object means no scaling
    old, new = (_spelling(reader, name) for name in ("rope_scaling", "rope_parameters"))
    beside = {"rope_theta": theta, "partial_rotary_factor": fraction}
    beside["original_max_position_embeddings"] = original or max_length
    settings = _older(old, new, beside) or dict({} if given else default or {})
    if original is not None and settings.setdefault("original_max_position_embeddings", original) != original:
        raise InputError("config.json: original_max_position_embeddings stands twice, with different values")
    kind = settings.get("rope_type")
    if renamed and isinstance(kind, str):
        settings["rope_type"] = renamed.get(kind, kind)
    return _rotary(
        ConfigReader(settings, "config.json: rope_parameters"), max_length, head_dim, theta, fraction, interleaved
    )


def rotary_by_layer_type(
    reader: ConfigReader, max_length: int, head_dim: int, defaults: dict[str, float]
) -> tuple[dict[str, RotaryConfig], int]:
    """As `rotary`, for a config whose `rope_parameters` have an object for each layer type, with a default base.

    The older `rope_scaling` applies to full attention, which also determines the maximum length.
    """
    older = reader.peek("rope_scaling")
    if isinstance(older, dict) and "type" in older and "rope_type" not in older:
        raise InputError("config.json: rope_scaling: type is not supported, rope_type is")  # Transformers 5 ignores it
    nested = ConfigReader(
        reader.take("rope_parameters", None, (dict, type(None))) or {}, "config.json: rope_parameters"
    )
    old = {"full_attention": _spelling(reader, "rope_scaling")}
    configs = {}
    contexts = {}
    for kind, theta in defaults.items():
        given = _spelling(nested, kind)
        merged = given | _older(old.get(kind, {}), given, beside=given)
        settings = ConfigReader(merged, f"config.json: rope_parameters: {kind}")
        configs[kind], contexts[kind] = _rotary(settings, max_length, head_dim, theta, None, False)
    nested.finish()
    return configs, contexts["full_attention"]


def _rotary(
    reader: ConfigReader, max_length: int, head_dim: int, theta: float, fraction: float | None, interleaved: bool
) -> tuple[RotaryConfig, int]:
    reader.alias("rope_type", "type")
    theta = float(reader.number("rope_theta", theta))
    fraction = _fraction(reader, fraction)
    scaling, context = reader.choice("rope_type", _SCALINGS, "default")(reader, max_length)
    reader.finish()
    dim = None
    if fraction not in (None, 1):
        dim = int(head_dim * fraction)
    return RotaryConfig(theta, scaling, dim, interleaved), context


def _fraction(reader: ConfigReader, default: float | None) -> float | None:
    if default is None:
        return reader.neutral("partial_rotary_factor", (1, None))
    if (fraction := reader.number_or_none("partial_rotary_factor", default)) is None:  # models differ in its meaning
        raise InputError("config.json: partial_rotary_factor=None is not supported")
    return fraction


def _spelling(reader: ConfigReader, name: str) -> dict[str, Any]:
    """Returns one of the two objects, with its type under `rope_type`; it may have both names of that key."""
    given = dict(reader.take(name, None, (dict, type(None))) or {})
    if "type" in given and given.setdefault("rope_type", given["type"]) != given.pop("type"):
        raise InputError(f"config.json: {name} has a type and another rope_type")
    return given


def _older(old: dict[str, Any], new: dict[str, Any], beside: dict[str, Any]) -> dict[str, Any]:
    """Returns the older spelling if it is present, as Transformers does; the newer one may only repeat it."""
    if old and any((beside | old).get(key) != value for key, value in new.items()):
        raise InputError("config.json: rope_scaling and rope_parameters disagree")
    return old or new


def _default(reader: ConfigReader, length: int) -> tuple[None, int]:
    reader.take("original_max_position_embeddings", None)
    return None, length


def _linear(reader: ConfigReader, length: int) -> tuple[LinearScalingConfig, int]:
    reader.take("original_max_position_embeddings", None)
    factor = float(reader.number("factor"))
    return LinearScalingConfig(factor), int(length * factor)


def _dynamic(reader: ConfigReader, length: int) -> tuple[DynamicNTKScalingConfig, int]:
    reader.take("original_max_position_embeddings", None)  # Transformers' formula goes by max_position_embeddings
    factor = float(reader.number("factor"))
    return DynamicNTKScalingConfig(factor, length), int(length * factor)


_MSCALES = ("mscale", "mscale_all_dim")  # 0 means none


def _yarn(reader: ConfigReader, length: int) -> tuple[YarnScalingConfig, int]:
    original = reader.size("original_max_position_embeddings", length)
    reader.take("finetuned", None)  # how the model was made
    factor = float(reader.number("factor"))
    attention_factor = reader.number_or_none("attention_factor")
    mscale, all_dim = (reader.number(name) if reader.peek(name) else reader.take(name, None) for name in _MSCALES)
    if attention_factor is None:
        both = mscale and all_dim
        if both:
            attention_factor = mscale_of(factor, mscale) / mscale_of(factor, all_dim)
        else:
            attention_factor = mscale_of(factor, 1)
    return YarnScalingConfig(
        factor,
        original,
        float(attention_factor),
        float(reader.number("beta_fast", 32)),
        float(reader.number("beta_slow", 1)),
        reader.flag("truncate", True),
    ), max(length, int(original * factor))


def mscale_of(factor: float, scale: Any) -> float:
    """Returns YaRN's temperature for a scaling factor."""
    if factor <= 1:
        return 1.0
    return 0.1 * scale * math.log(factor) + 1.0


def temperature(reader: ConfigReader) -> float:
    """Returns DeepSeek's factor of the scores: the square of YaRN's for `mscale_all_dim`. Takes no key."""
    for name in ("rope_parameters", "rope_scaling"):
        settings = reader.peek(name)
        if isinstance(settings, dict) and settings.get("mscale_all_dim"):
            given = ConfigReader(settings, f"config.json: {name}")
            return mscale_of(float(given.number("factor")), given.number("mscale_all_dim")) ** 2
    return 1.0


def _llama3(reader: ConfigReader, length: int) -> tuple[Llama3ScalingConfig, int]:
    original = reader.size("original_max_position_embeddings", length)
    factors = (float(reader.number(name)) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    factor, low, high = factors
    return Llama3ScalingConfig(factor, original, low, high), length


def _longrope(reader: ConfigReader, length: int) -> tuple[LongRoPEScalingConfig, int]:
    original = reader.size("original_max_position_embeddings", length)
    if original == 1:  # the formula divides by its logarithm
        raise InputError("config.json: rope_parameters: original_max_position_embeddings=1 is not supported")
    factor = reader.number_or_none("factor") or length / original
    attention_factor = reader.number_or_none("attention_factor")
    if attention_factor is None:
        attention_factor = 1.0
        if factor > 1:
            attention_factor = math.sqrt(1 + math.log(factor) / math.log(original))
    short, long = (tuple(map(float, reader.numbers(name))) for name in ("short_factor", "long_factor"))
    return LongRoPEScalingConfig(short, long, original, float(attention_factor)), length


_SCALINGS = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "llama3": _llama3,
    "longrope": _longrope,
}
