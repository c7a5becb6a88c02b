"""The file format of prompt caches: safetensors of a row's tokens, and of each layer's keys and values.

    tokens          int32 [n]
    I.key, I.value  [1 K t H] of layer I: all n positions, or the last t of a window, position p at index p % t
    I.key.values    eight-bit values as bytes, with their scale, float32 [1 K t], in I.key.scale; I.value likewise

The metadata are `format` and `model`, the facts of the model. The file does not depend on a mesh.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from reprlib import repr as shown  # bounds the length
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from safetensors import safe_open
from safetensors.numpy import save_file

from jaxllm.arrays import checksum
from jaxllm.atomic_write import atomic_file
from jaxllm.cache import CacheSpec, LayerCaches
from jaxllm.cache.quantized_kv import DTYPES
from jaxllm.config import DecoderConfig, to_json
from jaxllm.errors import InputError
from jaxllm.models.decoder import Decoder
from jaxllm.nn.parameter import named_parameters
from jaxllm.sharding import make_mesh, mesh_of, replicate
from jaxllm.text.files import library_errors

FORMAT = "jaxllm prompt cache 1"
_ROWS = 4  # that are hashed, along each axis of a weight but the last


class ModelFingerprint(NamedTuple):
    """What identifies a model and its settings.

    Attributes:
      config: its config.
      dtype: its dtype.
      cache_dtype: dtype of its cache.
      weights: checksum of some of its weights.
      mesh: mesh that it is on.
    """

    config: DecoderConfig
    dtype: str
    cache_dtype: str
    weights: str
    mesh: Mesh | None

    @classmethod
    def of(cls, model: Decoder, cache_dtype: Any = None) -> "ModelFingerprint":
        """Returns the fingerprint of a model. Must be called in the context of its mesh."""
        kept = model.dtype if cache_dtype is None else jnp.dtype(cache_dtype)
        weights = checksum(map(np.asarray, jax.device_get(_corners(model))))
        return cls(model.config, model.dtype.name, kept.name, weights, mesh_of(model))

    @property
    def facts(self) -> dict[str, Any]:
        """Everything but the mesh, as JSON values by name."""
        others = {"dtype": self.dtype, "cache_dtype": self.cache_dtype, "weights": self.weights}
        return json.loads(json.dumps({**to_json(self.config), **others}))

    def stack(self, mesh: Mesh | None) -> Any:
        """Returns the model's layers on a mesh, without arrays."""
        return Decoder(self.config, rngs=None, dtype=self.dtype, mesh=mesh).layers

    def cache_shapes(self, length: int) -> LayerCaches:
        """Returns the shapes [1 K t ...] of each layer's cache for a row of a length, on no mesh."""
        with jax.set_mesh(make_mesh(tensor=1, devices=jax.local_devices()[:1])):  # instead of the caller's mesh
            return jax.eval_shape(
                lambda: self.stack(None).new_caches(CacheSpec(1, length, jnp.dtype(self.cache_dtype)))
            )


@jax.jit
def _corners(model: Decoder) -> list[jax.Array]:
    """Returns some rows of each weight of the embedding and the last layer; the same on every mesh."""
    found = []
    for part in (model.embedding, model.layers[len(model.layers) - 1]):
        for _, parameter in named_parameters(part):
            weight = jax.device_put(parameter[...], jax.memory.Space.Device)  # it may be in host memory
            found.append(weight[(slice(_ROWS),) * (weight.ndim - 1)])
    return replicate(found)


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """Describes the first fact in which two models differ; None if they agree."""
    ours = _flatten(ours)
    theirs = _flatten(theirs)
    for name in {**ours, **theirs}:
        our_value = ours.get(name)
        their_value = theirs.get(name)
        if our_value == their_value:
            continue
        if isinstance(our_value, list) or isinstance(their_value, list):
            return f"another {name}"
        return f"{name}={shown(their_value)}, not {shown(our_value)}"
    return None


def _flatten(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested facts by dotted name."""
    flat = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def write(path: Path, origin: ModelFingerprint, tokens: Sequence[int], entries: LayerCaches) -> None:
    """Writes the tokens and layer caches (host arrays, which may have more room) of a row.

    Raises:
      InputError: the file cannot be written.
    """
    like = named(origin.cache_shapes(len(tokens)))
    data = named(origin.stack(origin.mesh).unstack_caches(entries))
    stored = {name: _stored(data[name], like[name]) for name in like}
    _require_no_directory(path)
    with atomic_file(path) as file, library_errors(path):
        metadata = {"format": FORMAT, "model": json.dumps(origin.facts)}
        save_file({"tokens": np.asarray(tokens, np.int32), **stored}, file, metadata)


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns the facts of a file's model, and its arrays by name.

    Raises:
      InputError: it is not a complete prompt cache.
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
    if os.path.isdir(path):  # False, without an error, for invalid names
        raise InputError(f"{path}: is a directory, and no prompt cache")


def cache_dtype(facts: Mapping[str, Any]) -> Any:
    """Returns the eight-bit dtype of a file's cache; None for the model's dtype."""
    return next((dtype for dtype in DTYPES.values() if dtype.name == facts.get("cache_dtype")), None)


def layers(path: Path, origin: ModelFingerprint, arrays: Mapping[str, np.ndarray]) -> tuple[list[int], LayerCaches]:
    """Returns the tokens of a file, and the cache of each layer, [1 K t ...] on the host.

    Raises:
      InputError: the arrays do not belong to the model.
    """
    tokens = arrays.get("tokens", np.zeros(0))
    if tokens.dtype != np.int32 or tokens.ndim != 1 or not tokens.size:
        raise InputError(f"{path}: no tokens in it")
    if tokens.min() < 0 or tokens.max() >= origin.config.vocab_size or len(tokens) > origin.config.max_length:
        raise InputError(f"{path}: has tokens that its model does not take")
    wanted = origin.cache_shapes(len(tokens))
    found = {name: arrays[name] for name in arrays if name != "tokens"}
    like = named(wanted)
    expected = {name: (each.shape, _stored_dtype(each.dtype)) for name, each in like.items()}
    for name in {**expected, **found}:
        there = found.get(name)
        if name not in expected or there is None or (there.shape, there.dtype) != expected[name]:
            raise InputError(f"{path}: {name} is not what its model keeps of {len(tokens)} tokens")
    kept = [found[name].view(each.dtype) for name, each in like.items()]
    return tokens.tolist(), jax.tree.unflatten(jax.tree.structure(wanted), kept)


def named(entries: LayerCaches) -> dict[str, Any]:
    """Returns the arrays of layer caches by their names in a file."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(entries)
    return {jax.tree_util.keystr(path, simple=True, separator="."): array for path, array in leaves}


def _stored(array: np.ndarray, like: jax.ShapeDtypeStruct) -> np.ndarray:
    """Returns the filled positions of an array, with each head once."""
    filled = array[:, :: array.shape[1] // like.shape[1], : like.shape[2]]
    return np.ascontiguousarray(filled).view(_stored_dtype(like.dtype))


def _stored_dtype(dtype: np.dtype) -> np.dtype:
    """Returns the dtype in the file. Eight-bit types are stored as bytes, since not all readers know them."""
    if dtype.itemsize == 1:
        return np.dtype(np.uint8)
    return dtype
