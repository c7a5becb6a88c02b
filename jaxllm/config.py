"""What a transformer is made of: one frozen dataclass per part, free of names, arrays and architectures.

A model is a `Decoder`, which holds parts, which hold parts. Every mechanism has a dataclass of its own here and
one module in `jaxllm.nn` that is built from it; `to_json` and `from_json` write and read any of them.
"""

import dataclasses
import types
import typing
from dataclasses import dataclass
from typing import Any

from jaxllm.errors import InputError


@dataclass(frozen=True)
class RMSNorm:
    """Zhang & Sennrich 2019: scale by the root mean square, no mean, no bias."""

    eps: float


@dataclass(frozen=True)
class LayerNorm:
    """Ba et al. 2016."""

    eps: float


@dataclass(frozen=True)
class LinearScaling:
    """Positions divided by `factor` (Chen et al. 2023)."""

    factor: float


@dataclass(frozen=True)
class DynamicScaling:
    """NTK-aware scaling of the base, by the length of each row once it exceeds `original_length`."""

    factor: float
    original_length: int


@dataclass(frozen=True)
class YarnScaling:
    """Peng et al. 2023: low frequencies interpolated, high ones kept, and the tables scaled."""

    factor: float
    original_length: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1: frequencies of long wavelength divided by `factor`, with a smooth passage."""

    factor: float
    original_length: int
    low_freq_factor: float
    high_freq_factor: float


@dataclass(frozen=True)
class Rotary:
    """Su et al. 2021, halves rotated against each other; `theta` is the base of the wavelengths."""

    theta: float = 10_000.0
    scaling: LinearScaling | DynamicScaling | YarnScaling | Llama3Scaling | None = None


@dataclass(frozen=True)
class LearnedPosition:
    """One trained vector per position, added to the token's."""

    length: int


@dataclass(frozen=True)
class Attention:
    """Causal self-attention with grouped key-value heads; `window` counts the query itself."""

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    bias: bool = False
    output_bias: bool = False
    position: Rotary | None = None
    window: int | None = None

    def __post_init__(self) -> None:
        if min(self.heads, self.kv_heads, self.head_dim) < 1:
            raise InputError(f"config: {self.heads} heads, {self.kv_heads} key-value heads of {self.head_dim}: too few")
        if self.heads % self.kv_heads:
            raise InputError(f"config: {self.heads} query heads cannot share {self.kv_heads} key-value heads evenly")
        if self.position is not None and self.head_dim % 2:
            raise InputError(f"config: head_dim={self.head_dim} is odd, but rotary positions turn pairs")


@dataclass(frozen=True)
class FeedForward:
    """`down(act(up x))`, or `down(act(gate x) * up x)` when gated (Shazeer 2020)."""

    hidden: int
    activation: str
    gated: bool
    bias: bool = False


@dataclass(frozen=True)
class Block:
    """Pre-norm: `x + attention(norm x)`, then `x + feed_forward(norm x)`."""

    norm: RMSNorm | LayerNorm
    attention: Attention
    feed_forward: FeedForward


@dataclass(frozen=True)
class Decoder:
    """A causal language model. Layer i is built from `blocks[i % len(blocks)]`.

    `context` is the longest row the model was made for; `eos_token_ids` is empty when nothing ends a text.
    """

    vocab_size: int
    embed_dim: int
    num_layers: int
    blocks: tuple[Block, ...]
    norm: RMSNorm | LayerNorm
    context: int
    tied: bool = False
    position: LearnedPosition | None = None
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if min(self.vocab_size, self.embed_dim, self.num_layers, self.context, len(self.blocks)) < 1:
            raise InputError("config: a decoder needs a vocabulary, a width, layers with a block to build, a context")

    def block(self, layer: int) -> Block:
        """The part that layer number `layer` is built from."""
        return self.blocks[layer % len(self.blocks)]


_PARTS = {
    cls.__name__: cls for cls in list(globals().values()) if isinstance(cls, type) and dataclasses.is_dataclass(cls)
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
    if name not in _PARTS:
        raise InputError(f"config: unknown part {name!r}; was it written by a newer jaxllm?")
    fields = {key: from_json(value) for key, value in data.items() if key != "part"}
    for field in dataclasses.fields(_PARTS[name]):
        if field.name in fields and not _fits(fields[field.name], field.type):
            raise InputError(f"config: {name}.{field.name} cannot be {fields[field.name]!r}")
    try:
        return _PARTS[name](**fields)
    except TypeError as error:
        raise InputError(f"config: {name}: {str(error).rpartition('__init__() ')[2]}") from None


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is what a field is declared to hold (an int passes for a float, a bool for neither)."""
    if isinstance(kind, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(item, typing.get_args(kind)[0]) for item in value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
