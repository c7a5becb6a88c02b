"""Pretrained transformers in JAX: from a PyTorch checkpoint to text on a mesh.

Everything public is here, and imported only when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxllm.errors import InputError
    from jaxllm.generation.text import Piece, generate, stream_generate
    from jaxllm.generation.tokens import generate_tokens
    from jaxllm.pretrained import load
    from jaxllm.sharding import make_mesh
    from jaxllm.text import load_tokenizer

__version__ = "0.1.0"

_EXPORTS = {
    "InputError": "jaxllm.errors",
    "Piece": "jaxllm.generation.text",
    "generate": "jaxllm.generation.text",
    "generate_tokens": "jaxllm.generation.tokens",
    "load": "jaxllm.pretrained",
    "load_tokenizer": "jaxllm.text",
    "make_mesh": "jaxllm.sharding",
    "stream_generate": "jaxllm.generation.text",
}
__all__ = ["__version__", *_EXPORTS]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'jaxllm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
