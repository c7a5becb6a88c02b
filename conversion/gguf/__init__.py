"""GGUF files, llama.cpp's own, presented under Hugging Face's names."""

from conversion.gguf.to_hf import VOCABULARY, Presented, present_gguf

__all__ = ["VOCABULARY", "Presented", "present_gguf"]
