"""Presents a GGUF file as a Hugging Face checkpoint, by inverting llama.cpp's converter.

The transformations are those of the `conversion/` folder of github.com/ggml-org/llama.cpp.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from conversion.files import Tensor, first, same_bytes
from conversion.gguf.families import KNOWN, family_of
from conversion.gguf.metadata import GGUFModel, read_model, token_ids
from conversion.gguf.names import GGUFRow
from conversion.gguf.reader import Stored, read_gguf
from conversion.gguf.rope import TENSORS
from conversion.gguf.transforms import CHANGES, Change, Sizes
from jaxllm.text.gguf_header import Header

VOCABULARY = "tokenizer.gguf"


@dataclass(frozen=True)
class VocabularyFile:
    """The vocabulary of a GGUF file, as a file of its own without the weights."""

    header: Header
    name: str = VOCABULARY

    def read_bytes(self) -> bytes:
        """Returns the content of the file."""
        return self.header.only("tokenizer.", "general.architecture", "general.name")


class Presented(NamedTuple):
    """A config.json, tensors by Hugging Face's names, and the vocabulary if the file has one."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    vocabulary: VocabularyFile | None


def present_gguf(path: Path) -> Presented:
    """Returns Hugging Face's config and tensors for a GGUF file, or for the first of its shards.

    Tensors are read one by one on request, and dequantized to float32. Experts, which the file stores in one tensor,
    are separate tensors. A head that equals the embedding byte for byte is left out.

    Raises:
      InputError: the file is damaged or its model is not supported, a key may change the results and is not handled, or
        a tensor is missing, unknown, or has a wrong shape.
    """
    header, stored = read_gguf(path)
    model = read_model(header, stored, KNOWN)
    family = family_of(model)
    config = family.config(model)
    tensors, claimed = _tensors(model, family.rows)
    if family.theta:
        in_config = {name for names in TENSORS.values() for name in names}
    else:
        in_config = set()
    if unknown := stored.keys() - claimed - in_config:
        raise model.error(f"tensor {first(unknown)} is not one of a {model.architecture} model")
    config["tie_word_embeddings"] = _is_tied(stored)
    if config["tie_word_embeddings"]:
        tensors = {
            name: tensor for name, tensor in tensors.items() if name not in ("lm_head.weight", "embed_out.weight")
        }
    config |= token_ids(header)
    return Presented(config, tensors, VocabularyFile(header) if "tokenizer.ggml.tokens" in header.values else None)


def _tensors(model: GGUFModel, rows: tuple[GGUFRow, ...]) -> tuple[dict[str, Tensor], set[str]]:
    """Returns the tensors that the rows give, and the names of the tensors in the file that they use."""
    tensors: dict[str, Tensor] = {}
    claimed: set[str] = set()
    for layer in range(model.sizes["layers"]):
        for row in rows if layer == 0 else [row for row in rows if "{i}" in row.source]:
            own = row.source.format(i=layer)
            if not row.optional and not model.has(f"{own}.weight"):
                raise model.error(f"tensor '{own}.weight' is missing")
            for kind in ("weight", "bias"):
                if model.has(f"{own}.{kind}"):
                    claimed.add(f"{own}.{kind}")
                    tensors.update(_changed(model, row, f"{own}.{kind}", layer))
    return tensors, claimed


def _changed(model: GGUFModel, row: GGUFRow, name: str, layer: int) -> Iterator[tuple[str, Tensor]]:
    """Yields a tensor of the file under its Hugging Face name, or each slice of it under a name of its own."""
    change = CHANGES[row.change]
    stored = model.tensors[name]
    kind = name.rpartition(".")[2]
    if change.rows and (stored.shape[0] != (rows := change.rows(model.sizes))):
        raise model.error(f"tensor {name!r} has {stored.shape[0]} rows, but its metadata make it {rows}")
    if "{e}" not in row.target:
        yield f"{row.target.format(i=layer)}.{kind}", _tensor(stored, change, model.sizes)
        return
    if len(stored.shape) < 2:
        raise model.error(f"tensor {name!r} has one dimension")
    for index in range(stored.shape[0]):
        yield f"{row.target.format(i=layer, e=index)}.{kind}", _tensor(stored.part(index), change, model.sizes)


def _tensor(stored: Stored, change: Change, sizes: Sizes) -> Tensor:
    return Tensor(change.shape(stored.shape), stored.dtype, partial(_read, stored, change, sizes), stored.file)


def _read(stored: Stored, change: Change, sizes: Sizes) -> np.ndarray:
    return change.apply(stored.read(), sizes)


def _is_tied(tensors: dict[str, Stored]) -> bool:
    head = tensors.get("output.weight")
    embedding = tensors["token_embd.weight"]
    if head is None:
        return True
    return (head.kind, head.shape) == (embedding.kind, embedding.shape) and same_bytes(head.raw(), embedding.raw())
