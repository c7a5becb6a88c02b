"""Conversion of configs to JSON values and back."""

import dataclasses
import sys
import types
import typing
from reprlib import repr as shown  # bounds the length
from typing import Any

from jaxllm.config import attention, block, feed_forward, model, norm, position
from jaxllm.errors import InputError

_CONFIG_CLASSES = {
    name: cls
    for module in (norm, position, attention, feed_forward, block, model)
    for name, cls in vars(module).items()
    if isinstance(cls, type) and dataclasses.is_dataclass(cls)
}


def to_json(config: Any) -> Any:
    """Returns the JSON values of a config. Each dataclass has its class name under "type"."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        fields = {f.name: to_json(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {"type": type(config).__name__, **fields}
    if isinstance(config, tuple):
        return [to_json(item) for item in config]
    return config


def from_json(data: Any) -> Any:
    """The inverse of `to_json`.

    Raises:
      InputError: a class or field is unknown, a field is missing, or a value has the wrong type.
    """
    if isinstance(data, list):
        return tuple(from_json(item) for item in data)
    if not isinstance(data, dict):
        return data
    name = data.get("type")
    if not isinstance(name, str) or name not in _CONFIG_CLASSES:
        raise InputError(f"config: unknown type {name!r}; it may be written by a newer jaxllm")
    fields = {key: from_json(value) for key, value in data.items() if key != "type"}
    for field in dataclasses.fields(_CONFIG_CLASSES[name]):
        if field.name in fields and not _has_type(fields[field.name], field.type):
            raise InputError(f"config: {name}.{field.name} cannot be {shown(fields[field.name])}")
    try:
        return _CONFIG_CLASSES[name](**fields)
    except TypeError as error:
        raise InputError(f"config: {name}: {str(error).rpartition('__init__() ')[2]}") from None


def _has_type(value: Any, expected: Any) -> bool:
    """Whether a value has a field's type and fits into 64 bits. An int may be a float; a bool may be neither."""
    if isinstance(expected, types.UnionType):
        return any(_has_type(value, option) for option in typing.get_args(expected))
    if typing.get_origin(expected) is tuple:
        return isinstance(value, tuple) and all(_has_type(item, typing.get_args(expected)[0]) for item in value)
    if expected is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if expected is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63
    return isinstance(value, expected)
