"""Parts to plain JSON values and back."""

import dataclasses
import sys
import types
import typing
from reprlib import repr as shown  # short, however long or deep
from typing import Any

from jaxllm.config import attention, feed_forward, model, norm, position
from jaxllm.errors import InputError

_PARTS = {
    name: cls
    for module in (norm, position, attention, feed_forward, model)
    for name, cls in vars(module).items()
    if isinstance(cls, type) and dataclasses.is_dataclass(cls)
}


def to_json(part: Any) -> Any:
    """Plain JSON values for a part; each dataclass carries its name under `"part"`."""
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        fields = {f.name: to_json(getattr(part, f.name)) for f in dataclasses.fields(part)}
        return {"part": type(part).__name__, **fields}
    return [to_json(item) for item in part] if isinstance(part, tuple) else part


def from_json(data: Any) -> Any:
    """The inverse of `to_json`.

    Raises:
        InputError: an unknown part, an unknown or missing field, or a value of the wrong type.
    """
    if isinstance(data, list):
        return tuple(from_json(item) for item in data)
    if not isinstance(data, dict):
        return data
    name = data.get("part")
    if not isinstance(name, str) or name not in _PARTS:
        raise InputError(f"config: unknown part {name!r}; was it written by a newer jaxllm?")
    fields = {key: from_json(value) for key, value in data.items() if key != "part"}
    for field in dataclasses.fields(_PARTS[name]):
        if field.name in fields and not _fits(fields[field.name], field.type):
            raise InputError(f"config: {name}.{field.name} cannot be {shown(fields[field.name])}")
    try:
        return _PARTS[name](**fields)
    except TypeError as error:
        raise InputError(f"config: {name}: {str(error).rpartition('__init__() ')[2]}") from None


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a field's type and fits in 64 bits (an int passes for a float, a bool for neither)."""
    if isinstance(kind, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(item, typing.get_args(kind)[0]) for item in value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63
    return isinstance(value, kind)
