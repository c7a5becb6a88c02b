"""One file per architecture, named after its Hugging Face `model_type`: `from_hf(keys)` and `TABLE`.

And `CLASS`, where Transformers' class for it is not called as `class_name` would have it.
"""

import importlib
import pkgutil
from typing import Any, Protocol

from conversion.keys import Keys
from conversion.table import Table
from jaxllm import config
from jaxllm.errors import InputError

# What model types were called before Transformers had them.
FIRST_NAMES = {"RefinedWeb": "falcon", "RefinedWebModel": "falcon"}


class Architecture(Protocol):
    """What an architecture's file holds."""

    TABLE: Table

    @staticmethod
    def from_hf(keys: Keys) -> config.Decoder:
        """Our config from theirs."""
        ...


def names() -> list[str]:
    """The supported model types."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def architecture(model_type: Any) -> Architecture:
    """The file of a model type.

    Raises:
        InputError: there is none.
    """
    name = FIRST_NAMES.get(model_type, model_type) if isinstance(model_type, str) else None
    if name not in names():
        raise InputError(f"config.json: model_type {model_type!r} is not supported; known: {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")  # pyright: ignore[reportReturnType]


def class_name(model_type: str) -> str:
    """What Transformers calls the causal model of a type; raises as `architecture` does."""
    words = [word[:1].upper() + word[1:] for word in FIRST_NAMES.get(model_type, model_type).split("_")]
    return getattr(architecture(model_type), "CLASS", f"{''.join(words)}ForCausalLM")
