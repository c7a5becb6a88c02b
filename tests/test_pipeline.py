"""Which layers stages of a pipeline have, in which places, and what goes through them at a time."""

from itertools import chain

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxllm
from conversion import convert
from jaxllm.checkpoint import restore
from jaxllm.nn.parameter import named_parameters
from jaxllm.parallel import pipeline
from jaxllm.parallel.pipeline import microbatches
from jaxllm.parallel.stage_assignment import assign_stages, slots
from tests import quick, tiny


@given(st.lists(st.sampled_from("AB"), min_size=1, max_size=40), st.integers(1, 9))
def test_every_layer_has_its_place(kinds, stages):
    places = slots(kinds, stages)
    of_stage = [[slot[stage] for slot in places if slot[stage] is not None] for stage in range(stages)]
    assert list(chain(*of_stage)) == list(range(len(kinds)))  # each once, in order, consecutive ones together
    assert max(map(len, of_stage)) - min(map(len, of_stage)) <= 1
    for slot in places:
        assert len({kinds[layer] for layer in slot if layer is not None}) == 1


@pytest.mark.parametrize(
    ("kinds", "stages", "places"),
    [("A" * 80, 8, 10), ("A" * 7, 3, 3), ("AAA" + "B" * 58, 4, 18), ("A" * 3, 8, 1)],
)
def test_no_more_places_than_it_takes(kinds, stages, places):
    assert len(slots(kinds, stages)) == places


@pytest.mark.parametrize(
    ("parts", "stages", "places"),
    [("SF" * 21, 2, 22), ("SF" * 18, 4, 10), ("RRRN" * 9, 8, 5)],  # Gemma 2 9B, gpt-oss 120B, SmolLM3
)
def test_one_part_in_a_place_where_it_costs_few(parts, stages, places):
    assert len(assign_stages(parts, "A" * len(parts), stages)) == places


@pytest.mark.parametrize(
    ("rows", "tokens", "axes", "count"),
    [
        (1, 4096, {"stage": 4}, 1),
        (8, 1, {"stage": 4}, 1),  # a decode step of few rows: the weights' reading is what takes the time
        (8, 4096, {"stage": 2}, 8),
        (64, 4096, {"stage": 2}, 8),  # four for each stage
        (6, 512, {"stage": 4}, 6),
        (6, 64, {"stage": 4}, 1),
        (2048, 1, {"stage": 2}, 8),  # a decode step of many
        (6, 512, {"stage": 2, "data": 2}, 3),  # of each device's three rows
        (7, 512, {"stage": 2, "data": 2}, 7),
    ],
)
def test_microbatches(rows, tokens, axes, count):
    assert microbatches((rows, tokens, 64), axes["stage"], jaxllm.make_mesh(**{"tensor": 1, **axes})) == count


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.2)])
def test_gradients_flow_through_stages(dtype, tolerance, tmp_path, monkeypatch):
    """An odd number of layers, more microbatches than one, and the gradient of each layer where it belongs."""
    monkeypatch.setattr(pipeline, "MICROBATCH_TOKENS", 4)
    config = tiny.CASES["llama"] | {"num_hidden_layers": 3}
    native = convert(tiny.write(tmp_path / "source", config), tmp_path / "native")
    tokens = np.random.default_rng(0).integers(0, 100, (4, 6), np.int32)
    gradient = jax.jit(jax.grad(lambda model: (model(tokens) ** 2).mean()))
    whole = {name: np.float32(p[...]) for name, p in named_parameters(gradient(restore(native, dtype=dtype)))}
    model = restore(native, jaxllm.make_mesh(stage=2, tensor=1), dtype)
    for name, parameter in named_parameters(gradient(model)):
        parts = model.stage_names(name)
        for part, found in [(name, parameter[...])] if parts is None else zip(parts, parameter[...], strict=True):
            expected = 0 if part is None else whole[part]
            atol = tolerance * np.abs(expected).max() + 1e-12
            np.testing.assert_allclose(np.float32(found), expected, rtol=0, atol=atol)


def test_stages_of_different_parts(checkpoint_of, tmp_path):
    """Three layers with, without and with rotary positions, one to a stage; each can be taken out as it is."""
    native = convert(checkpoint_of("smollm3-published-keys"), tmp_path / "native")
    whole, model = restore(native), restore(native, jaxllm.make_mesh(stage=3, tensor=1, devices=jax.devices()[:3]))
    assert isinstance(model.layers, pipeline.Pipeline)
    assert len(model.layers.slots) == 1
    tokens = np.random.default_rng(0).integers(0, 100, (1, 12), np.int32)
    expected, found = (quick.jit(lambda model: model(tokens))(each) for each in (whole, model))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    for ours, theirs in zip(iter(model.layers), iter(whole.layers), strict=True):
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
