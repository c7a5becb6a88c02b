"""GGUF files, llama.cpp's own, presented under Hugging Face's names."""

from conversion.gguf.present import Presented, present_gguf

__all__ = ["Presented", "present_gguf"]
