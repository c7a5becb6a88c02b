"""Pretrained transformers in JAX: from a PyTorch checkpoint to text on a mesh.

Everything public is here, and imported only when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxllm.version import __version__ as __version__

if TYPE_CHECKING:
    from jaxllm.errors import InputError
    from jaxllm.generation.prompt_cache import PromptCache
    from jaxllm.generation.text import GenerationResponse, generate, stream_generate
    from jaxllm.generation.tokens import generate_tokens
    from jaxllm.pretrained import load
    from jaxllm.sharding import make_mesh
    from jaxllm.text import load_tokenizer

__all__ = [
    "GenerationResponse",
    "InputError",
    "PromptCache",
    "generate",
    "generate_tokens",
    "load",
    "load_tokenizer",
    "make_mesh",
    "stream_generate",
]

_MODULES = {
    "jaxllm.errors": ("InputError",),
    "jaxllm.generation.prompt_cache": ("PromptCache",),
    "jaxllm.generation.text": ("GenerationResponse", "generate", "stream_generate"),
    "jaxllm.generation.tokens": ("generate_tokens",),
    "jaxllm.pretrained": ("load",),
    "jaxllm.sharding": ("make_mesh",),
    "jaxllm.text": ("load_tokenizer",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'jaxllm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
