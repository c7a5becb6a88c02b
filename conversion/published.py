"""The shapes of published models by name, from a file beside this one: for planning without a network.

`published.json` has one model a line: its name, its repository and its other names, the number of parameters that is
published (of the language model alone, layers for multi-token prediction left out), and Hugging Face's config of it,
as far as sizes go. GPT-3 is there as the GPT-2 that it has the shape of (Brown et al. 2020, table 2.1).
"""

import json
import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from conversion.architectures import architecture
from conversion.keys import Keys
from jaxllm import config

# Words of a name that say how a model was tuned or packed, not how large it is.
_IDLE = {"hf", "chat", "instruct", "it", "base", "pt"}


@dataclass(frozen=True)
class Published:
    """A model as it was published; `hf_config` is Hugging Face's."""

    name: str
    parameters: int
    hf_config: dict[str, Any]
    repo: str | None = None
    also: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All that it is called."""
        return (self.name, *((self.repo,) if self.repo else ()), *self.also)

    def part(self) -> config.Decoder:
        """What the model is made of."""
        keys = Keys(self.hf_config, self.name)
        part = architecture(keys.take("model_type")).from_hf(keys)
        keys.finish()
        return part


@cache
def published() -> tuple[Published, ...]:
    """All that are known."""
    lines = json.loads(Path(__file__).with_suffix(".json").read_text("utf-8"))
    return tuple(Published(**line | {"also": tuple(line.get("also", ()))}) for line in lines)


def find(name: str) -> Published | None:
    """The model of that name, however it is spelt: case, punctuation, owner and words such as "chat" do not count."""
    return _by_key().get(_key(name))


def near(name: str) -> list[str]:
    """The names of models that one may have meant."""
    return [_by_key()[key].name for key in get_close_matches(_key(name), _by_key(), n=3, cutoff=0.6)]


@cache
def _by_key() -> dict[str, Published]:
    return {_key(name): model for model in published() for name in model.names}


def _key(name: str) -> str:
    """The words and numbers of a name: "meta-llama/Llama-2-70b-hf" is "llama 2 70 b"."""
    words = re.findall(r"[a-z]+|\d+(?:\.\d+)?|\+", name.rpartition("/")[2].lower())
    return " ".join(word for word in words if word not in _IDLE)
