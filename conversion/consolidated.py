"""Checkpoints in the layouts of Mistral and Meta (consolidated files), presented under Hugging Face's names.

Both rotate neighboring rows of the query and key projections, Hugging Face the first half of a head with the second.
Two patterns therefore move an axis `two`; see `permute` in Transformers' convert_llama_weights_to_hf.py and
`permute_for_rope` in convert_mistral_weights_to_hf.py. Each file of a model-parallel checkpoint holds a slice of every
matrix: rows if a layer's output is split (fairscale's ColumnParallelLinear), columns if its input is.
"""

import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from einops import rearrange

from conversion.files import Tensor, first, same_bytes
from conversion.params_json import Params, to_config
from conversion.patterns import shape
from jaxllm.errors import InputError

Shards = Sequence[Mapping[str, Tensor]]


class LayoutRow(NamedTuple):
    """A weight: Hugging Face's name, the original name, and the pattern from the original layout to Hugging Face's.

    `axes` are the axes of the original shape along which shards may be split; without any, each shard has the whole.
    """

    name: str
    own: str
    pattern: str
    axes: tuple[int, ...]


# v vocabulary, d embedding, n query heads, k key-value heads, c head size and h half of it, f hidden size
TABLE = (
    # Llama 1 and 2 split the embedding by columns, Llama 3 by rows.
    LayoutRow("model.embed_tokens.weight", "tok_embeddings.weight", "v d -> v d", (1, 0)),
    LayoutRow("model.norm.weight", "norm.weight", "d -> d", ()),
    LayoutRow("lm_head.weight", "output.weight", "v d -> v d", (0,)),
)
LAYER_TABLE = tuple(
    LayoutRow(f"model.layers.{{i}}.{name}.weight", f"layers.{{i}}.{own}.weight", pattern, axes)
    for name, own, pattern, axes in (
        ("input_layernorm", "attention_norm", "d -> d", ()),
        ("self_attn.q_proj", "attention.wq", "(n h two) d -> (n two h) d", (0,)),
        ("self_attn.k_proj", "attention.wk", "(k h two) d -> (k two h) d", (0,)),
        ("self_attn.v_proj", "attention.wv", "(k c) d -> (k c) d", (0,)),
        ("self_attn.o_proj", "attention.wo", "d (n c) -> d (n c)", (1,)),
        ("post_attention_layernorm", "ffn_norm", "d -> d", ()),
        ("mlp.gate_proj", "feed_forward.w1", "f d -> f d", (0,)),
        ("mlp.down_proj", "feed_forward.w2", "d f -> d f", (1,)),
        ("mlp.up_proj", "feed_forward.w3", "f d -> f d", (0,)),
    )
)
# The rotary frequencies of Llama 1 and 2, which are computed from rope_theta wherever they are used.
IGNORED = re.compile(r"(layers\.\d+\.attention\.inner_attention\.)?rope\.freqs")


def to_hf(params: Params, shards: Shards) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns Hugging Face's config and tensors for a checkpoint in the layout of Mistral or Meta.

    `shards` are the model-parallel files in order. They are joined when a tensor is read; a tensor in a single file
    whose order does not change is not copied.

    Raises:
      InputError: a tensor is missing, unknown, has another shape than params.json gives it, or differs between shards
        that should agree.
    """
    if not all(shards):
        raise InputError(f"{params.file.parent}: a consolidated file without any tensors")
    _check_alike(shards)
    rows = _rows(params, shards)
    config = to_config(params, _vocabulary(shards), _is_tied(params, shards))
    sizes = _sizes(config)
    tensors = {row.name: _join(row, [shard[row.own] for shard in shards], sizes) for row in rows}
    if config["tie_word_embeddings"]:
        tensors.pop("lm_head.weight", None)  # Hugging Face stores a tied matrix once
    return config, tensors


def _check_alike(shards: Shards) -> None:
    """Checks that all shards have the same tensors, and agree in the ignored ones."""
    for shard in shards[1:]:
        if difference := shards[0].keys() ^ shard.keys():
            without = shard if min(difference) in shards[0] else shards[0]
            raise InputError(f"{_file(without)}: tensor {first(difference)} is missing, another shard has it")
        for name, piece in shard.items():
            if (piece.shape, piece.dtype) != (shards[0][name].shape, shards[0][name].dtype):
                raise InputError(f"{piece.file}: tensor {name!r} has not the shape and dtype of the first shard's")
    for name in filter(IGNORED.fullmatch, shards[0]):
        _check_agreement(name, [shard[name] for shard in shards])


def _rows(params: Params, shards: Shards) -> list[LayoutRow]:
    """Returns the rows of the table for every layer; each must be present, and no other tensor."""
    names = shards[0].keys()
    optional = "output.weight"
    if not params.tied:
        optional = None
    rows = [row for row in TABLE if row.own in names or row.own != optional]
    _check_present(rows, shards)
    for i in range(params.layers):
        layer = [row._replace(name=row.name.format(i=i), own=row.own.format(i=i)) for row in LAYER_TABLE]
        _check_present(layer, shards)  # one by one: a params.json may claim any number of layers
        rows += layer
    unknown = names - {row.own for row in rows}
    if unknown := {name for name in unknown if not IGNORED.fullmatch(name)}:
        raise InputError(f"{_file(shards[0])}: tensor {first(unknown)} is not one of a {params.layout} model")
    return rows


def _check_present(rows: Sequence[LayoutRow], shards: Shards) -> None:
    if missing := {row.own for row in rows} - shards[0].keys():
        raise InputError(f"{_file(shards[0])}: tensor {first(missing)} is missing")


def _file(shard: Mapping[str, Tensor]) -> str:
    return str(next(iter(shard.values())).file)


def _vocabulary(shards: Shards) -> int | None:
    if "output.weight" not in shards[0]:
        return None
    return sum(sum(shard["output.weight"].shape[:1]) for shard in shards)


def _is_tied(params: Params, shards: Shards) -> bool:
    """Whether the output matrix is the embedding; Mistral's params.json says so, Meta's does not."""
    if "output.weight" not in shards[0]:
        return True
    tied = all(same_bytes(shard["tok_embeddings.weight"], shard["output.weight"]) for shard in shards)
    if params.tied and not tied:
        raise InputError(f"{params.file}: 'tied_embeddings' is true, but 'output.weight' is not the embedding")
    return tied


def _sizes(config: dict[str, Any]) -> dict[str, int]:
    return {
        "v": config["vocab_size"],
        "d": config["hidden_size"],
        "n": config["num_attention_heads"],
        "k": config["num_key_value_heads"],
        "c": config["head_dim"],
        "h": config["head_dim"] // 2,
        "two": 2,
        "f": config["intermediate_size"],
    }


def _join(row: LayoutRow, pieces: list[Tensor], sizes: dict[str, int]) -> Tensor:
    own, theirs = row.pattern.split(" -> ")
    axis = _cut_axis(row, pieces, shape(own, sizes))
    axes = {name: sizes[name] for name in re.findall(r"\w+", own)}
    read = partial(_read, pieces if axis is not None else pieces[:1], axis or 0, row.pattern, axes)
    return Tensor(shape(theirs, sizes), pieces[0].dtype, read, pieces[0].file)


def _cut_axis(row: LayoutRow, pieces: list[Tensor], whole: tuple[int, ...]) -> int | None:
    """Returns the axis along which the pieces form `whole`; None if each of them is the whole."""
    piece = pieces[0].shape
    for axis in row.axes:
        if whole == tuple(n * len(pieces) if i == axis else n for i, n in enumerate(piece)):
            return axis
    if row.axes or piece != whole:
        count = "1 shard"
        if len(pieces) != 1:
            count = f"each of {len(pieces)} shards"
        hint = "; is a shard missing?"
        if len(pieces) * math.prod(piece) >= math.prod(whole):
            hint = ""
        fault = f"tensor {row.own!r} is {piece} in {count}, params.json makes it {whole}{hint}"
        raise InputError(f"{pieces[0].file}: {fault}")
    _check_agreement(row.own, pieces)
    return None


def _read(pieces: list[Tensor], axis: int, pattern: str, axes: dict[str, int]) -> np.ndarray:
    arrays = [piece.read() for piece in pieces]
    return rearrange(arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis), pattern, **axes)


def _check_agreement(name: str, pieces: list[Tensor]) -> None:
    for piece in pieces[1:]:
        if not same_bytes(pieces[0], piece):
            raise InputError(f"{piece.file}: tensor {name!r} differs from the first shard's, and each has the whole")
