"""What devices send each other, counted in compiled programs: activations, and weights only under `fsdp`."""

import math
import re
from collections import Counter

import jax
import jax.numpy as jnp
import pytest

import jaxllm
from conversion.architectures import architecture
from conversion.config_reader import ConfigReader
from jaxllm.models.abstract import abstract
from jaxllm.nn.parameter import named_parameters
from tests.test_sharding import CONFIGS

COLLECTIVE = re.compile(r"= (\S+) (all-\w+|reduce-scatter|collective-permute)(?:-start)?\(")
BATCH, TIME = 2, 8


def compiled_collectives(case, axes):
    """The collectives of a forward pass on a mesh: kind and number of elements, and whether in a loop or branch."""
    reader = ConfigReader(CONFIGS[case])
    config = architecture(reader.take("model_type")).from_hf(reader)
    mesh = jaxllm.make_mesh(**{"tensor": 1, **axes})
    model = abstract(config, jnp.float32, mesh)
    with jax.set_mesh(mesh):
        program = jax.jit(lambda model, tokens: model(tokens))
        text = program.lower(model, jax.ShapeDtypeStruct((BATCH, TIME), jnp.int32)).compile().as_text() or ""
    entry = text.index("\nENTRY")
    return config, [(m[2], num_elements(m[1]), m.start() < entry) for m in COLLECTIVE.finditer(text)]


def num_elements(shape):
    dimensions = re.findall(r"\d+", re.sub(r"\{.*", "", shape[shape.index("[") :]))
    return math.prod(map(int, dimensions))


@pytest.mark.parametrize("case", CONFIGS)
def test_tensor_axis_needs_two_all_reduces_per_layer(case):
    """With `tensor` alone: one after attention, one after the feed-forward, and none of weights, nor in a loop."""
    config, found = compiled_collectives(case, {"tensor": 4})
    embedding = 2  # the look-up, and the logits of a vocabulary that does not divide
    assert (
        2 * config.layers.num_layers
        <= sum(kind == "all-reduce" for kind, _, _ in found)
        <= 2 * config.layers.num_layers + embedding
    )
    assert max(elements for _, elements, _ in found) <= BATCH * TIME * config.vocab_size
    assert not any(inside for _, _, inside in found)
    weight = config.embed_dim**2 // 2
    assert all(kind == "all-reduce" or elements < weight for kind, elements, _ in found)


def test_pipeline_moves_only_activations():
    """A loop over ticks, in which a microbatch moves on; no weight moves."""
    config, found = compiled_collectives("grouped", {"stage": 2, "tensor": 2})
    places, activation = 2, BATCH * TIME * config.embed_dim
    inside = [(kind, elements) for kind, elements, loop in found if loop]
    assert sorted(inside) == [("all-reduce", activation)] * 2 * places + [("collective-permute", activation)]
    assert all(elements <= BATCH * TIME * config.vocab_size for _, elements, _ in found)


def test_fsdp_gathers_the_weights_of_layers():
    """Each matrix of each layer once, and no sum as large as one."""
    config, found = compiled_collectives("grouped", {"fsdp": 2})
    layers = [p for name, p in named_parameters(abstract(config)) if name.startswith("layers.") and len(p.shape) > 1]
    gathered = Counter(elements for kind, elements, _ in found if kind == "all-gather")
    matrices = Counter(math.prod(parameter.shape) for parameter in layers)
    assert {elements: gathered[elements] for elements in matrices} == matrices
    others = [elements for kind, elements, _ in found if kind != "all-gather" or elements not in matrices]
    assert max(others) <= BATCH * TIME * config.vocab_size
