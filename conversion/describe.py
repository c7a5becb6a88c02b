"""Describes a model by a path, a published name or a repository: reads its config only."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from conversion.convert import declared_dtype, translate
from conversion.published import find, near
from conversion.source import open_source
from jaxllm import checkpoint
from jaxllm.config import DecoderConfig
from jaxllm.errors import InputError


class Description(NamedTuple):
    """A model's name, its config, and the dtype of its weights if that is known."""

    name: str
    config: DecoderConfig
    dtype: np.dtype | None


def describe(model: str | Path, revision: str | None = None) -> Description:
    """Describes a native checkpoint, a source of `convert`, or a published model by name; reads no weights.

    Published names take precedence over the hub, so that they need no network.

    Raises:
      InputError: there is nothing of that name (similar names are listed), or its config is not supported.
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
    return Description(str(model), translation.config, declared_dtype(translation.source))
