"""From a name or a path to a model that runs: convert if needed, restore, and find the tokenizer."""

import hashlib
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from conversion.convert import translate, write
from conversion.source import locate, open_source
from jaxllm import checkpoint
from jaxllm.distributed import agree, broadcast, in_turn
from jaxllm.errors import InputError
from jaxllm.kernels.target import target
from jaxllm.models.decoder import Decoder
from jaxllm.planning import Work, advise, chip_of
from jaxllm.planning.memory import unsharded, whole_on_each
from jaxllm.planning.plan import CONTEXT
from jaxllm.sharding import make_mesh
from jaxllm.storage import cache_dir
from jaxllm.text import Tokenizer, has_tokenizer, load_tokenizer
from jaxllm.version import __version__


def load(
    path_or_repo: str | Path,
    mesh: Mesh | None = None,
    dtype: Any = None,
    quantize: None = None,
    revision: str | None = None,
    *,
    placement: str | None = None,
    offload: bool = False,
) -> tuple[Decoder, Tokenizer | None]:
    """A model on a mesh (the first device by default) and its tokenizer, or None where it comes without.

    A native checkpoint is restored as it is; any other source is converted first, once, into the cache. The dtype
    is the checkpoint's own unless given. Float64 needs JAX's 64-bit mode. With `placement="auto"` the mesh is the one
    that `jaxllm.planning.advise` picks of all devices, for one row of up to 4096 tokens; a line on stderr says why.
    With `offload` layers stay in host memory, and devices fetch each a layer ahead of its use: slow, but of any size;
    such a model has no gradients in reverse mode.

    Raises:
        InputError: nothing usable under that name, or a mesh or dtype that does not fit it.
    """
    if quantize is not None:
        raise InputError(f"quantize={quantize!r}: quantized weights are not supported yet")
    if placement not in (None, "auto"):
        raise InputError(f'placement={placement!r}: must be "auto"')
    if placement is not None and mesh is not None:
        raise InputError("mesh and placement are both given: give one of them")
    if placement is not None and offload:
        raise InputError("placement and offload are both given: it is on devices' own memory that meshes are chosen")
    native = in_turn(lambda: native_checkpoint(path_or_repo, revision))
    asked = {"mesh": mesh and dict(mesh.shape), "dtype": str(dtype), "placement": placement, "offload": offload}
    kernels = {"proven kernels (jaxllm doctor --kernels)": sorted(target().proven)}  # programs have them or not
    agree(str(path_or_repo), {"content": _identity(native), **asked, **kernels})
    if placement == "auto":
        extents: dict[str, Any] = broadcast(lambda: _advised_extents(native, dtype))
        mesh = make_mesh(**extents)
    model = checkpoint.restore(native, mesh, dtype, offload)
    if mesh is not None and (whole := unsharded(model.config, str(model.dtype), mesh)):
        warnings.warn(whole_on_each(whole, mesh), stacklevel=2)
    return model, load_tokenizer(native) if has_tokenizer(native) else None


def native_checkpoint(path_or_repo: str | Path, revision: str | None = None) -> Path:
    """The directory of the native checkpoint, converted into the cache if it is not there yet."""
    path = Path(os.path.expanduser(path_or_repo))
    if checkpoint.is_checkpoint(path):
        return path
    source = locate(path_or_repo, revision)
    files = _files(source) if source == path else []  # a hub's are told by the commit, which is in the path
    target = cache_dir() / "checkpoints" / f"{source.resolve().name[:40]}-{_fingerprint(source, files)}"
    if not checkpoint.is_checkpoint(target):
        try:
            write(translate(open_source(path_or_repo, revision)), target)
        except InputError:
            if not checkpoint.is_checkpoint(target):  # else another process was quicker
                raise
    return target


def _advised_extents(native: Path, dtype: Any) -> dict[str, int]:
    """The mesh of all devices that suits a checkpoint best; says why on stderr."""
    part = checkpoint.read_config(native)
    stored = str(checkpoint.float_dtype(dtype or checkpoint.read_manifest(native)["dtype"]))
    chip = chip_of(jax.local_devices()[0])
    work = Work(part, stored, 1, min(CONTEXT, part.context), chip.memory, chip.bandwidth)
    advice = advise(work, len(jax.devices()))
    if not advice.fits:
        raise InputError(f"{native.name}: {advice.reason}")
    print(f"jaxllm: placed on {advice.mesh}: {advice.reason}", file=sys.stderr)
    return advice.mesh.shape


def _identity(native: Path) -> str:
    """The same for the same model, whatever its directory and its date."""
    checksums = sorted(checkpoint.read_manifest(native)["checksums"].items())
    return hashlib.sha256(f"{checkpoint.read_config(native)} {checksums}".encode()).hexdigest()[:16]


def _files(source: Path) -> list[Path]:
    return [file for file in sorted(source.iterdir()) if file.is_file()] if source.is_dir() else [source]


def _fingerprint(source: Path, files: list[Path]) -> str:
    """Changes whenever one of the files does, or the converter."""
    digest = hashlib.sha256(__version__.encode() + b" " + os.fsencode(source.resolve()))
    for file in files:
        status = file.stat()
        digest.update(b"\0" + os.fsencode(file.name) + f" {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]
