"""The supported architectures: one file each, named after the Hugging Face `model_type`.

A file has a docstring that starts with the names of the models and a colon, a function `from_hf(reader)`, a `TABLE`,
and a `CLASS` if the class in Transformers has another name than `model_type` in camel case with "ForCausalLM".
"""

import importlib
import pkgutil
from typing import Any

from conversion.architecture import Architecture
from jaxllm.errors import InputError

# Names that published configs used before Transformers had the architecture.
LEGACY_NAMES = {"RefinedWeb": "falcon", "RefinedWebModel": "falcon"}


def names() -> list[str]:
    """Returns the supported model types."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def architecture(model_type: Any) -> Architecture:
    """Returns the architecture of a model type.

    Raises:
      InputError: the model type is not supported.
    """
    name = None
    if isinstance(model_type, str):
        name = LEGACY_NAMES.get(model_type, model_type)
    if name not in names():
        raise InputError(f"config.json: model_type {model_type!r} is not supported; known: {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    camel_case = "".join(word[:1].upper() + word[1:] for word in name.split("_"))
    class_name = getattr(module, "CLASS", f"{camel_case}ForCausalLM")
    models, _, _ = (module.__doc__ or "").partition(":")
    return Architecture(name, module.from_hf, module.TABLE, class_name, models)
