"""What conversion knows of one architecture: how to read its config, and its weight table."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from conversion.config_reader import ConfigReader
from conversion.table import WeightTable


@dataclass(frozen=True)
class Architecture:
    """An architecture of Hugging Face Transformers.

    `conversion.architectures` has one for each supported `model_type`. `convert` and `export` accept others as well.

    Attributes:
      model_type: the `model_type` of its config.json.
      from_hf: builds our `ModelConfig` from the keys of a config.json.
      table: the table of its weights.
      class_name: name of its model class in Transformers.
      models: names of published models that have it.
    """

    model_type: str
    from_hf: Callable[[ConfigReader], Any]
    table: WeightTable
    class_name: str
    models: str = ""
