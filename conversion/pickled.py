"""Reads PyTorch's pickled checkpoints (.bin, .pth) as weights, without executing them."""

import pickle
import re
import warnings
import zipfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from conversion.files import Tensor, one_line, require_file
from jaxllm.errors import InputError

if TYPE_CHECKING:
    import torch

DTYPES = {
    name: np.dtype(getattr(ml_dtypes, name, None) or name)
    for name in (
        *("float64", "float32", "float16", "bfloat16", "complex64", "bool"),
        *("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
        *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
    )
}


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a file saved by `torch.save`: a state dict, or a dict with one under "model".

    They are memory-mapped, except in files of torch before 1.6, whose format does not allow it. Strided views become
    contiguous; tensors that share storage remain views of the same memory.

    Raises:
      InputError: torch is missing, the pickle contains anything but tensors and plain containers, or an entry is not a
        plain tensor; one line that names the file and the entry.
    """
    require_file(path)
    state = _state_dict(path, _load(path))
    return {name: _tensor(path, name, value) for name, value in state.items()}


def _load(path: Path) -> Any:
    try:
        import torch
    except ImportError:
        message = 'reading a pickled checkpoint needs PyTorch: pip install "jaxllm[torch]"'
        raise InputError(f"{path}: {message}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what matters raises
            return torch.load(path, map_location="cpu", weights_only=True, mmap=_can_be_mapped(path))
    except pickle.UnpicklingError as error:
        raise InputError(f"{path}: {_refusal(error)}") from None
    except Exception as error:  # whatever the bytes led torch into: its readers have no exception of their own
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(f"{path}: not a PyTorch checkpoint, or truncated ({reason})") from None


def _can_be_mapped(path: Path) -> bool:
    """Whether the file stores the arrays unchanged: it is neither in the old format nor a recompressed archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())


def _refusal(error: Exception) -> str:
    wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
    if wanted is None:
        return "not a PyTorch checkpoint, or truncated"
    return f"refused: its pickle asks for {wanted[1]}, and only weights are read"


def _state_dict(path: Path, loaded: Any) -> dict[str, Any]:
    if isinstance(loaded, dict) and isinstance(loaded.get("model"), dict):
        loaded = loaded["model"]  # the rest is the optimizer's and the trainer's
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: holds a {type(loaded).__name__}, not a dict of tensors")
    return loaded


def _tensor(path: Path, name: Any, value: Any) -> Tensor:
    import torch

    where = f"{path}: entry {name!r}"
    if not isinstance(name, str) or not isinstance(value, torch.Tensor):
        raise InputError(f"{where} is a {type(value).__name__}, not a named tensor")
    dtype = DTYPES.get(str(value.dtype).removeprefix("torch."))
    if value.layout != torch.strided or value.device.type != "cpu" or dtype is None:
        raise InputError(f"{where}: a {value.layout} {value.dtype} tensor on {value.device} is not handled")
    if value.nbytes > value.untyped_storage().nbytes():  # strides of zero: a small file could ask for any memory
        raise InputError(f"{where}: its shape {tuple(value.shape)} repeats a smaller storage")
    return Tensor(tuple(value.shape), dtype, partial(_to_numpy, value.detach(), dtype), path)


def _to_numpy(value: "torch.Tensor", dtype: np.dtype) -> np.ndarray:
    import torch

    if hasattr(ml_dtypes, dtype.name):  # no type of NumPy's own: the bits travel as integers of the same size
        value = value.view({1: torch.uint8, 2: torch.int16}[dtype.itemsize])
    return np.ascontiguousarray(value.numpy()).view(dtype).reshape(tuple(value.shape))
