"""Loads a model from a name or a path: converts it if needed, restores it, and finds its tokenizer."""

import hashlib
import os
import sys
import warnings
from pathlib import Path
from typing import Any, Literal

import jax
from jax.sharding import Mesh

from conversion.convert import translate, write
from conversion.source import locate, open_source
from jaxllm import checkpoint
from jaxllm.errors import InputError
from jaxllm.kernels.target import target
from jaxllm.parallel.distributed import broadcast, leader_first, require_same
from jaxllm.paths import cache_dir
from jaxllm.planning import Workload, advise, chip_of
from jaxllm.planning.memory import describe_unsharded, unsharded_weights
from jaxllm.planning.plan import default_context
from jaxllm.sharding import make_mesh
from jaxllm.text import Tokenizer, has_tokenizer, load_tokenizer
from jaxllm.version import __version__


def load(
    path_or_repo: str | Path,
    mesh: Mesh | Literal["auto"] | None = None,
    dtype: Any = None,
    quantize: None = None,
    revision: str | None = None,
    *,
    offload: bool = False,
) -> tuple[Any, Tokenizer | None]:
    """Loads a model and its tokenizer. A checkpoint that is not native is converted first, once, into the cache.

    Args:
      path_or_repo: directory, file, or name of a hub repository.
      mesh: mesh of `make_mesh`; by default the first device. "auto" selects the mesh of all devices that
        `jaxllm.planning.advise` recommends for one row of up to 4096 tokens, and prints the reason on stderr.
      dtype: dtype to compute in; by default the checkpoint's. float64 needs JAX's 64-bit mode.
      quantize: not supported yet.
      revision: revision of a hub repository.
      offload: keep the layers in host memory and prefetch each one before it is used. This is slow, but any size fits.
        Such a model has no reverse-mode gradients.

    Returns:
      The model, and its tokenizer or None if the checkpoint has none.

    Raises:
      InputError: there is no usable checkpoint under that name, or the mesh or dtype does not fit it.
    """
    if quantize is not None:
        raise InputError(f"quantize={quantize!r}: quantized weights are not supported yet")
    if isinstance(mesh, str) and mesh != "auto":
        raise InputError(f'mesh={mesh!r}: must be a mesh of jaxllm.make_mesh, or "auto"')
    if mesh == "auto" and offload:
        raise InputError('mesh="auto": selects a mesh by the memory of its devices; leave out offload, or give a mesh')
    native = leader_first(lambda: native_checkpoint(path_or_repo, revision))
    _require_same_job(path_or_repo, native, {"mesh": mesh, "dtype": str(dtype), "offload": offload})
    if mesh == "auto":
        sizes: dict[str, Any] = broadcast(lambda: _advised_axis_sizes(native, dtype))
        mesh = make_mesh(**sizes)
    model = checkpoint.restore(native, mesh, dtype, offload)
    if mesh is not None:
        _warn_if_unsharded(model, mesh)
    tokenizer = None
    if has_tokenizer(native):
        tokenizer = load_tokenizer(native)
    return model, tokenizer


def _require_same_job(path_or_repo: str | Path, native: Path, options: dict[str, Any]) -> None:
    """Checks that all processes of a job load the same model with the same options and kernels."""
    facts = dict(options)
    if isinstance(options["mesh"], Mesh):
        facts["mesh"] = dict(options["mesh"].shape)
    facts["validated kernels (jaxllm doctor --kernels)"] = sorted(target().validated)  # decide what is compiled
    require_same(str(path_or_repo), {"content": _identity(native), **facts})


def _warn_if_unsharded(model: Any, mesh: Mesh) -> None:
    whole = unsharded_weights(model.config, str(model.dtype), mesh)
    if whole:
        warnings.warn(describe_unsharded(whole, mesh), stacklevel=3)


def native_checkpoint(path_or_repo: str | Path, revision: str | None = None) -> Path:
    """Returns the directory of the native checkpoint, after converting it into the cache if it is not there yet."""
    path = Path(os.path.expanduser(path_or_repo))
    if checkpoint.is_checkpoint(path):
        return path
    source = locate(path_or_repo, revision)
    files = _files(source) if source == path else []  # a hub repository's path contains the commit
    target = cache_dir() / "checkpoints" / f"{source.resolve().name[:40]}-{_fingerprint(source, files)}"
    if not checkpoint.is_checkpoint(target):
        try:
            write(translate(open_source(path_or_repo, revision)), target)
        except InputError:
            if not checkpoint.is_checkpoint(target):  # otherwise another process was faster
                raise
    return target


def _advised_axis_sizes(native: Path, dtype: Any) -> dict[str, int]:
    """Returns the axis sizes that are advised for a checkpoint on all devices, and prints the reason on stderr."""
    config = checkpoint.read_config(native)
    stored = str(checkpoint.float_dtype(dtype or checkpoint.read_manifest(native)["dtype"]))
    chip = chip_of(jax.local_devices()[0])
    work = Workload(config, stored, 1, default_context(config), chip.memory, chip.bandwidth)
    advice = advise(work, len(jax.devices()))
    if not advice.fits:
        raise InputError(f"{native.name}: {advice.reason}")
    print(f"jaxllm: placed on {advice.mesh}: {advice.reason}", file=sys.stderr)
    return advice.mesh.shape


def _identity(native: Path) -> str:
    """Returns a hash of a checkpoint's config and weights, which does not depend on its directory or date."""
    checksums = sorted(checkpoint.read_manifest(native)["checksums"].items())
    return hashlib.sha256(f"{checkpoint.read_config(native)} {checksums}".encode()).hexdigest()[:16]


def _files(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    return [file for file in sorted(source.iterdir()) if file.is_file()]


def _fingerprint(source: Path, files: list[Path]) -> str:
    """Returns a hash that changes whenever one of the files, the library or the checkpoint format does."""
    version = f"{__version__} {checkpoint.FORMAT} "
    digest = hashlib.sha256(version.encode() + os.fsencode(source.resolve()))
    for file in files:
        status = file.stat()
        digest.update(b"\0" + os.fsencode(file.name) + f" {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]
