"""Configs of published models by name, from a file next to this one: for planning without a network.

`published.json` has one model per line: name, repository, other names, the published number of parameters (of the
language model, without multi-token prediction), and Hugging Face's config with its sizes. GPT-3 is listed as a GPT-2 of
its shape (Brown et al. 2020, table 2.1).
"""

import json
import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from conversion.architectures import architecture
from conversion.config_reader import ConfigReader
from jaxllm.config import DecoderConfig

# Words of a name that say how a model was tuned or packed, not how large it is.
_IDLE = {"hf", "chat", "instruct", "it", "base", "pt"}


@dataclass(frozen=True)
class Published:
    """A published model; `hf_config` is Hugging Face's."""

    name: str
    parameters: int
    hf_config: dict[str, Any]
    repo: str | None = None
    also: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All names of the model."""
        return (self.name, *((self.repo,) if self.repo else ()), *self.also)

    def part(self) -> DecoderConfig:
        """Returns its config."""
        reader = ConfigReader(self.hf_config, self.name)
        config = architecture(reader.take("model_type")).from_hf(reader)
        reader.finish()
        return config


@cache
def published() -> tuple[Published, ...]:
    """Returns all known models."""
    lines = json.loads(Path(__file__).with_suffix(".json").read_text("utf-8"))
    return tuple(Published(**line | {"also": tuple(line.get("also", ()))}) for line in lines)


def find(name: str) -> Published | None:
    """Returns the model of a name; case, punctuation, owner and words such as "chat" do not count."""
    return _by_key().get(_key(name))


def near(name: str) -> list[str]:
    """Returns similar names."""
    return [_by_key()[key].name for key in get_close_matches(_key(name), _by_key(), n=3, cutoff=0.6)]


@cache
def _by_key() -> dict[str, Published]:
    return {_key(name): model for model in published() for name in model.names}


def _key(name: str) -> str:
    """Returns the words and numbers of a name: "meta-llama/Llama-2-70b-hf" is "llama 2 70 b"."""
    words = re.findall(r"[a-z]+|\d+(?:\.\d+)?|\+", name.rpartition("/")[2].lower())
    return " ".join(word for word in words if word not in _IDLE)
