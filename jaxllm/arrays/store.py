"""The store below Orbax: a key-value store (OCDBT) of Zarr arrays, whose chunks can be read one by one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorstore

from jaxllm.errors import InputError

_INDEX_BYTES = 100_000_000  # of the index that are cached, as in Orbax
_METADATA = "/zarr.json"


class Store:
    """The arrays that Orbax has written to a directory."""

    def __init__(self, path: Path):
        """Opens the store without reading anything."""
        self.path = path
        base = {"driver": "file", "path": f"{path.absolute()}/state/"}
        self._context = tensorstore.Context({"cache_pool#index": {"total_bytes_limit": _INDEX_BYTES}})
        self._spec = {"driver": "ocdbt", "base": base, "cache_pool": "cache_pool#index"}

    def names(self) -> list[str]:
        """Returns the names of all arrays.

        Raises:
          InputError: the index is damaged.
        """
        with errors_as(f"{self.path.parent}: cannot be read"):
            keys = tensorstore.KvStore.open(self._spec, context=self._context).result().list().result()
        return [key.decode().removesuffix(_METADATA) for key in keys if key.endswith(_METADATA.encode())]

    def open(self, name: str) -> tensorstore.TensorStore:
        """Opens one array, and reads only its shape and dtype.

        Raises:
          InputError: there is no array of that name, or it cannot be opened.
        """
        spec = {"driver": "zarr3", "kvstore": {**self._spec, "path": f"{name}/"}}
        try:
            with errors_as(f"{self.path.parent}: cannot be restored: tensor {name}"):
                return tensorstore.open(spec, open=True, read=True, context=self._context).result()
        except InputError as error:
            if isinstance(error.__cause__, ValueError) and str(error.__cause__).startswith("NOT_FOUND"):
                raise InputError(f"{self.path.parent}: tensor {name}: missing") from None
            raise


@contextmanager
def errors_as(problem: str, kind: type[Exception] = InputError) -> Iterator[None]:
    """Turns any exception into a one-line error; Orbax and tensorstore raise no narrower class than Exception."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        message = " ".join(str(error).split())[:200]
        if problem:
            message = f"{problem}: {message}"
        raise kind(message) from error
