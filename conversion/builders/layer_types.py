"""Reads which layers have full attention, and which a sliding window."""

from collections.abc import Sequence

from conversion.config_reader import ConfigReader

FULL = "full_attention"
SLIDING = "sliding_attention"


def layer_types(
    reader: ConfigReader, layers: int, default: Sequence[str], known: Sequence[str] = (FULL, SLIDING)
) -> list[str]:
    """Returns the type of attention of each layer; the default is repeated over the layers."""
    repeated = [default[i % len(default)] for i in range(layers)]
    return list(reader.choices("layer_types", known, layers, repeated))


def full_attention_every(layers: int, every: int) -> list[str]:
    """Returns layer types in which every `every`-th layer has full attention, and the others a sliding window."""
    return [FULL if (i + 1) % every == 0 else SLIDING for i in range(layers)]


def windows_from(reader: ConfigReader, layers: int, window: int | None, first: int) -> list[int | None]:
    """Returns `windows`; without `layer_types` the layers from number `first` on have the window."""
    default = [SLIDING if window and layer >= first else FULL for layer in range(layers)]
    return windows(reader, layers, window, default)


def windows(reader: ConfigReader, layers: int, window: int | None, default: Sequence[str]) -> list[int | None]:
    """Returns the window of each layer by `layer_types`; None for full attention, the only type without a window."""
    kinds = layer_types(reader, layers, default, (FULL, SLIDING) if window else (FULL,))
    return [window if kind == SLIDING else None for kind in kinds]
