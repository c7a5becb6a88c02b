"""What a model has read of one row as a file: safetensors of the tokens, and of each layer's keys and values.

    tokens          int32 [n]
    I.key, I.value  [1 K t H] of layer I: its n positions, or of a window the last t of them, position p at p % t
    I.key.values    eight bits, as bytes, with a float32 scale [1 K t] per vector in I.key.scale; I.value likewise

Its metadata are `format`, and `model`: which one it is that has read. Nothing of a mesh is in it.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from reprlib import repr as shown  # short, however long or deep
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from safetensors import safe_open
from safetensors.numpy import save_file

from jaxllm import config
from jaxllm.arrays import checksum
from jaxllm.errors import InputError
from jaxllm.models.decoder import Decoder
from jaxllm.narrow import DTYPES
from jaxllm.nn.parameter import named_parameters
from jaxllm.sharding import make_mesh, mesh_of, replicate
from jaxllm.streaming import Entries
from jaxllm.text.files import library_errors
from jaxllm.workspace import replacing

FORMAT = "jaxllm prompt cache 1"
_ROWS = 4  # of a weight, along each of its axes but the last


class Origin(NamedTuple):
    """The model that has read something, the dtype that it keeps that in, and a checksum of some of its weights."""

    config: config.Decoder
    dtype: str
    cache_dtype: str
    weights: str
    mesh: Mesh | None

    @classmethod
    def of(cls, model: Decoder, cache_dtype: Any = None) -> "Origin":
        """A model, in the context of its mesh."""
        kept = model.dtype if cache_dtype is None else jnp.dtype(cache_dtype)
        weights = checksum(map(np.asarray, jax.device_get(_corners(model))))
        return cls(model.config, model.dtype.name, kept.name, weights, mesh_of(model))

    @property
    def facts(self) -> dict[str, Any]:
        """All but the mesh, as plain JSON values by name."""
        others = {"dtype": self.dtype, "cache_dtype": self.cache_dtype, "weights": self.weights}
        return json.loads(json.dumps({**config.to_json(self.config), **others}))

    def layers(self, mesh: Mesh | None) -> Any:
        """The model's layers on a mesh, without arrays."""
        return Decoder(self.config, rngs=None, dtype=self.dtype, mesh=mesh).layers

    def entries(self, length: int) -> Entries:
        """Shapes of what each layer keeps of a row [1 K t ...], on no mesh."""
        with jax.set_mesh(make_mesh(tensor=1, devices=jax.local_devices()[:1])):  # not the caller's
            return jax.eval_shape(lambda: self.layers(None).new_entries(1, length, jnp.dtype(self.cache_dtype)))


@jax.jit
def _corners(model: Decoder) -> list[jax.Array]:
    """Some rows of each weight of the embedding and the last layer, on every device: the same on any mesh."""
    found = []
    for part in (model.embedding, model.layers[len(model.layers) - 1]):
        for _, parameter in named_parameters(part):
            weight = jax.device_put(parameter[...], jax.memory.Space.Device)  # it may be in host memory
            found.append(weight[(slice(_ROWS),) * (weight.ndim - 1)])
    return replicate(found)


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """The first of a model's facts that another one does not share, in words."""
    for name in {**ours, **theirs}:
        here, there = ours.get(name), theirs.get(name)
        if here != there:
            told = not isinstance(here, list | dict) and not isinstance(there, list | dict)
            return f"{name}={shown(there)}, not {shown(here)}" if told else f"another {name}"
    return None


def write(path: Path, origin: Origin, tokens: Sequence[int], entries: Entries) -> None:
    """Writes what the layers have kept of tokens, as arrays of the host; there may be more room in them.

    Raises:
        InputError: the file cannot be written.
    """
    like, data = named(origin.entries(len(tokens))), named(origin.layers(origin.mesh).apart(entries))
    stored = {name: _stored(data[name], like[name]) for name in like}
    _require_no_directory(path)
    with replacing(path) as file, library_errors(path):
        metadata = {"format": FORMAT, "model": json.dumps(origin.facts)}
        save_file({"tokens": np.asarray(tokens, np.int32), **stored}, file, metadata)


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The facts of a file's model, and its arrays by name.

    Raises:
        InputError: it is no whole file of this kind.
    """
    _require_no_directory(path)
    with library_errors(path), safe_open(path, framework="np") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise InputError(f"not a prompt cache of this version: format {metadata.get('format')!r}, not {FORMAT!r}")
        return _facts(path, metadata), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _facts(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    with suppress(ValueError, RecursionError):
        found = json.loads(metadata.get("model", ""))
        if isinstance(found, dict):
            return found
    raise InputError(f"{path}: does not say which model it is of")


def _require_no_directory(path: Path) -> None:
    if os.path.isdir(path):  # False, and no error, for names that are none
        raise InputError(f"{path}: is a directory, and no prompt cache")


def cache_dtype(facts: Mapping[str, Any]) -> Any:
    """The dtype of eight bits that a file's model has kept; None for its own."""
    return next((dtype for dtype in DTYPES.values() if dtype.name == facts.get("cache_dtype")), None)


def entries(path: Path, origin: Origin, arrays: Mapping[str, np.ndarray]) -> tuple[list[int], Entries]:
    """The tokens of a file's arrays, and what each layer of its model has kept of them, [1 K t ...] on the host.

    Raises:
        InputError: they are not those of that model.
    """
    tokens = arrays.get("tokens", np.zeros(0))
    if tokens.dtype != np.int32 or tokens.ndim != 1 or not tokens.size:
        raise InputError(f"{path}: no tokens in it")
    if tokens.min() < 0 or tokens.max() >= origin.config.vocab_size or len(tokens) > origin.config.limit:
        raise InputError(f"{path}: has tokens that its model does not take")
    wanted, found = origin.entries(len(tokens)), {name: arrays[name] for name in arrays if name != "tokens"}
    like = named(wanted)
    expected = {name: (each.shape, _stored_dtype(each.dtype)) for name, each in like.items()}
    for name in {**expected, **found}:
        there = found.get(name)
        if name not in expected or there is None or (there.shape, there.dtype) != expected[name]:
            raise InputError(f"{path}: {name} is not what its model keeps of {len(tokens)} tokens")
    kept = [found[name].view(each.dtype) for name, each in like.items()]
    return tokens.tolist(), jax.tree.unflatten(jax.tree.structure(wanted), kept)


def named(entries: Entries) -> dict[str, Any]:
    """The arrays of layers' entries, by their names in a file."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(entries)
    return {jax.tree_util.keystr(path, simple=True, separator="."): array for path, array in leaves}


def _stored(array: np.ndarray, like: jax.ShapeDtypeStruct) -> np.ndarray:
    """What is filled, of each head once."""
    filled = array[:, :: array.shape[1] // like.shape[1], : like.shape[2]]
    return np.ascontiguousarray(filled).view(_stored_dtype(like.dtype))


def _stored_dtype(dtype: np.dtype) -> np.dtype:
    """Eight bits are bytes: not all readers of the format know all kinds of them."""
    return np.dtype(np.uint8) if dtype.itemsize == 1 else dtype
