"""Reads the metadata of a GGUF file so that no key is ignored silently, and the keys that all architectures have.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and `gguf.constants.Keys`; defaults: `load_hparams` in
llama.cpp's src/llama-model.cpp.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conversion.config_reader import ConfigReader
from conversion.gguf.reader import Stored
from jaxllm.config import MAX_LAYERS
from jaxllm.errors import InputError
from jaxllm.text.files import library_errors
from jaxllm.text.gguf_header import Header
from jaxllm.text.gguf_metadata import Metadata

# Keys without effect on the logits, by how they begin.
HARMLESS = {
    "general.": "names, authors, licenses, the kind of quantization; its architecture and type are read",
    "tokenizer.": "the vocabulary, which the tokenizer reads, and the special tokens",
    "split.": "how the tensors are spread over files, which the reader checks",
    "quantize.": "how the importance of weights was measured",
    "mradermacher.": "who quantized it, and when",
}
# Keys of an architecture with the only values under which they change nothing.
NEUTRAL = {
    "attention.causal": (True,),
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "expert_used_count": (0,),
    "leading_dense_block_count": (0,),
    "pooling_type": (0,),
    "rope.scaling.finetuned": (False, True),
    "tensor_data_layout": ("Meta AI original pth", "jploski"),
}


@dataclass(frozen=True)
class GGUFModel:
    """The metadata of a model: the keys that were not read yet, the sizes that all models have, and the tensors."""

    header: Header
    architecture: str
    keys: ConfigReader
    sizes: dict[str, int]
    tensors: Mapping[str, Stored]

    def key(self, name: str) -> str:
        """Returns the full name of one of the architecture's keys."""
        return f"{self.architecture}.{name}"

    def size(self, name: str, *default: Any) -> int:
        """Returns a positive integer."""
        return self.keys.size(self.key(name), *default)

    def number(self, name: str, *default: Any) -> float:
        """Returns a positive number."""
        return self.keys.number(self.key(name), *default)

    def number_or_none(self, name: str) -> float | None:
        """Returns a positive number, or None if the key is missing."""
        if self.key(name) in self.header.values:
            return self.number(name)
        return None

    def flag(self, name: str, default: bool) -> bool:
        """Returns true or false."""
        return self.keys.flag(self.key(name), default)

    def has(self, name: str) -> bool:
        """Whether the file has a tensor."""
        return name in self.tensors

    def error(self, problem: str) -> InputError:
        """Returns an error whose message starts with the file."""
        return InputError(f"{self.header.file}: {problem}")

    def finish(self) -> None:
        """Rejects every key that was not read, unless it is known to change nothing."""
        for name, values in NEUTRAL.items():
            self.keys.neutral(self.key(name), values)
        self.keys.finish()


def read_model(header: Header, tensors: Mapping[str, Stored], known: Sequence[str]) -> GGUFModel:
    """Reads what the metadata of a file say of its model, including its sizes.

    Raises:
      InputError: a key is missing or invalid, or the file does not describe a supported model.
    """
    general = ConfigReader(header.values, str(header.file))
    for key, values in (("general.type", ("model",)), ("general.quantization_version", (2,))):
        general.neutral(key, values)
    architecture = general.take("general.architecture", kinds=(str,))
    if architecture not in known:
        problem = f"general.architecture {architecture[:40]!r} is not supported; known: {', '.join(known)}"
        raise InputError(f"{header.file}: {problem}")
    left = {key: value for key, value in header.values.items() if not key.startswith(tuple(HARMLESS))}
    model = GGUFModel(header, architecture, ConfigReader(left, str(header.file)), {}, tensors)
    model.sizes.update(_sizes(model))
    return model


def _sizes(model: GGUFModel) -> dict[str, int]:
    embedding = model.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise model.error("tensor token_embd.weight: missing, or not a matrix")
    vocabulary = embedding.shape[0]
    dim = model.size("embedding_length")
    heads = model.size("attention.head_count")
    if model.size("vocab_size", vocabulary) != vocabulary:
        raise model.error(f"{model.key('vocab_size')} is not {vocabulary}, the rows of token_embd.weight")
    head_dim = model.size("attention.key_length", dim // heads or 1)
    if model.size("attention.value_length", head_dim) != head_dim:
        raise model.error(f"{model.key('attention.value_length')} is not attention.key_length, {head_dim}")
    return {
        "vocab": vocabulary,
        "dim": dim,
        "layers": model.keys.size(model.key("block_count"), most=MAX_LAYERS),
        "context": model.size("context_length"),
        "hidden": model.size("feed_forward_length"),
        "heads": heads,
        "kv_heads": model.size("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "rope_dim": model.size("rope.dimension_count", head_dim),
        "experts": model.keys.take(model.key("expert_count"), 0, (int,)),
    }


def token_ids(header: Header) -> dict[str, Any]:
    """Returns the BOS and EOS token ids, as keys of config.json."""
    reader = ConfigReader(header.values, str(header.file))
    begins, *ends = (reader.token_ids(f"tokenizer.ggml.{name}_token_id", None) for name in ("bos", "eos", "eot", "eom"))
    ids = [token_id for given in ends for token_id in given]
    if "tokenizer.ggml.tokens" in header.values:
        with library_errors(header.file):
            ids = Metadata(header.file, header).settings().eos_token_ids  # also those that only their names tell
    ids = list(dict.fromkeys(ids))
    return {
        "bos_token_id": begins[0] if begins else None,
        "eos_token_id": ids[0] if len(ids) == 1 else ids or None,
    }
