"""The store below Orbax's: a key-value store (OCDBT) of Zarr arrays, each in chunks that are read alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorstore

from jaxllm.errors import InputError

_INDEX_BYTES = 100_000_000  # of the index, kept in memory as Orbax keeps them
_METADATA = "/zarr.json"


class Store:
    """The arrays that Orbax has written to a directory."""

    def __init__(self, path: Path):
        """Opens the store; nothing is read yet."""
        self.path = path
        base = {"driver": "file", "path": f"{path.absolute()}/state/"}
        self._context = tensorstore.Context({"cache_pool#index": {"total_bytes_limit": _INDEX_BYTES}})
        self._spec = {"driver": "ocdbt", "base": base, "cache_pool": "cache_pool#index"}

    def names(self) -> list[str]:
        """The names of all arrays.

        Raises:
            InputError: the index is damaged.
        """
        with told(f"{self.path.parent}: cannot be read"):
            keys = tensorstore.KvStore.open(self._spec, context=self._context).result().list().result()
        return [key.decode().removesuffix(_METADATA) for key in keys if key.endswith(_METADATA.encode())]

    def open(self, name: str) -> tensorstore.TensorStore:
        """One of the arrays, nothing of which is read yet but its shape and dtype.

        Raises:
            InputError: there is none of that name, or it cannot be opened.
        """
        spec = {"driver": "zarr3", "kvstore": {**self._spec, "path": f"{name}/"}}
        try:
            with told(f"{self.path.parent}: cannot be restored: tensor {name}"):
                return tensorstore.open(spec, open=True, read=True, context=self._context).result()
        except InputError as error:
            if isinstance(error.__cause__, ValueError) and str(error.__cause__).startswith("NOT_FOUND"):
                raise InputError(f"{self.path.parent}: tensor {name}: missing") from None
            raise


@contextmanager
def told(problem: str, kind: type[Exception] = InputError) -> Iterator[None]:
    """Whatever goes wrong, in one line: neither Orbax nor tensorstore raises anything narrower than Exception."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise kind(f"{problem}: " * bool(problem) + " ".join(str(error).split())[:200]) from error
