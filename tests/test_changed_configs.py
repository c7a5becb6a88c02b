"""Whatever stands in a config, it is translated or refused in one line, for every key of every architecture."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conversion.architectures import architecture, names
from conversion.binding import bind
from conversion.config_reader import ConfigReader
from jaxllm.config import from_json, to_json
from jaxllm.errors import InputError
from jaxllm.models.abstract import abstract
from tests import tiny

ODD = [2**31, 2**63, 10**30, 10**400, -1, 0, 0.0, -0.5, 1e-300, 1e300, float("nan"), float("inf")]
ODD += ["", "x", "relu", "yarn", "full_attention", [], {}, [0], [1.5], ["sliding_attention"], {"type": "yarn"}]
VALUES = st.none() | st.booleans() | st.integers(0, 70) | st.floats(0, 4) | st.sampled_from(ODD)


def translate(config: dict[str, Any]) -> None:
    """The config's model, abstract, with a tensor for every parameter; or one line."""
    reader, message = ConfigReader(config), ""
    try:
        module = architecture(reader.take("model_type"))
        part = module.from_hf(reader)
        reader.finish()
        assert from_json(to_json(part)) == part
        bind(module.table.rows, abstract(part))
    except InputError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 400


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a config."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in items for place in [(value, key), *places(inner)] if key != "model_type"]


@pytest.mark.parametrize("model_type", names())
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_changed_keys(model_type, data):
    cases = [config for config in tiny.CASES.values() if config["model_type"] == model_type]
    config = copy.deepcopy(data.draw(st.sampled_from(cases)))
    others = sorted({key for case in cases for key in case if key != "model_type"})
    for container, key in data.draw(st.lists(st.sampled_from(places(config)), max_size=2)):
        container[key] = data.draw(VALUES)
    config |= {key: data.draw(VALUES) for key in data.draw(st.lists(st.sampled_from(others), max_size=1))}
    translate(config)


@pytest.mark.parametrize("model_type", names())
def test_defaults_are_complete(model_type):
    """An empty config is Transformers' default model: every key has its default."""
    translate({"model_type": model_type})
