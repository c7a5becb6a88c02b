"""What a model is made of, by a path, a published name or a repository's: its config alone is read."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from conversion.convert import said_dtype, translate
from conversion.published import find, near
from conversion.source import open_source
from jaxllm import checkpoint, config
from jaxllm.errors import InputError


class Description(NamedTuple):
    """A model's name, what it is made of, and the dtype of its weights, None where that is not said."""

    name: str
    part: config.Decoder
    dtype: np.dtype | None


def describe(model: str | Path, revision: str | None = None) -> Description:
    """A native checkpoint, whatever `convert` takes, or a published model by name; no weights are read.

    Published names come before the hub, so that they need no network.

    Raises:
        InputError: nothing of that name, with the names that are near; or a config that is not supported.
    """
    path = Path(os.path.expanduser(model))
    if checkpoint.is_checkpoint(path):
        dtype = checkpoint.float_dtype(checkpoint.read_manifest(path)["dtype"])
        return Description(str(model), checkpoint.read_config(path), dtype)
    if not path.exists() and (known := find(str(model))):
        return Description(known.name, known.part(), None)
    try:
        translation = translate(open_source(model, revision))
    except InputError as error:
        if path.exists() or not (names := near(str(model))):
            raise
        raise InputError(f"{error}; published models of a name like it: {', '.join(names)}") from None
    return Description(str(model), translation.part, said_dtype(translation.source))
