"""Every architecture's prefill and decode step lower for accelerators, on a machine without one, on one and on many."""

import jax
import jax.numpy as jnp
import pytest

import jaxllm
from conversion.architectures import architecture, names
from conversion.config_reader import ConfigReader
from jaxllm.models.abstract import abstract
from tests import tiny


def step(model, tokens, lengths, cache):
    states, cache = model.hidden(tokens, lengths, cache)
    return model.logits(states), cache


@pytest.mark.parametrize("axes", [{"tensor": 1}, {"fsdp": 2, "stage": 2, "tensor": 2}], ids=str)
@pytest.mark.parametrize("model_type", names())
def test_lowers(model_type, axes):
    reader = ConfigReader(next(config for config in tiny.CASES.values() if config["model_type"] == model_type))
    part, mesh = architecture(reader.take("model_type")).from_hf(reader), jaxllm.make_mesh(**axes)
    model = abstract(part, jnp.bfloat16, mesh)
    with jax.set_mesh(mesh):
        cache = jax.eval_shape(lambda: model.new_cache(2, 64))
        for length in (1, 16):
            shapes = jax.ShapeDtypeStruct((2, length), jnp.int32), jax.ShapeDtypeStruct((2,), jnp.int32)
            text = jax.jit(step).trace(model, *shapes, cache).lower(lowering_platforms=("cuda", "tpu")).as_text()
            assert f"tensor<2x{length}x" in text
            assert f"mhlo.num_partitions = {mesh.size} " in text
