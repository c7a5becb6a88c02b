"""Tokenizers and chat templates behind one small interface."""

from jaxllm.text.load import load_tokenizer
from jaxllm.text.stream import TextStream
from jaxllm.text.tokenizer import Tokenizer

__all__ = ["TextStream", "Tokenizer", "load_tokenizer"]
