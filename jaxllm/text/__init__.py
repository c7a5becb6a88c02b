"""Tokenizers and chat templates behind one small interface.

`load` finds the file and the backend that reads it: `huggingface` (tokenizer.json, its decoders in `decoders`),
`sentencepiece_model`, `tiktoken_bpe` or `gguf_vocabulary`. A backend makes ids of text and bytes of ids; `tokenizer`,
`stream` and `chat` do the rest, the same for all. Nothing heavy is imported before a file needs it.
"""

from jaxllm.text.load import has_tokenizer, load_tokenizer
from jaxllm.text.stream import TextStream
from jaxllm.text.tokenizer import Tokenizer

__all__ = ["TextStream", "Tokenizer", "has_tokenizer", "load_tokenizer"]
