"""Reads GGUF files, the format of llama.cpp, as Hugging Face checkpoints."""

from conversion.gguf.to_hf import VOCABULARY, Presented, present_gguf

__all__ = ["VOCABULARY", "Presented", "present_gguf"]
