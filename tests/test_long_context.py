"""Far from the beginning of a row the numbers are still PyTorch's: a bit lost in a frequency shows there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conversion import convert
from conversion.verify import BOUNDS
from jaxllm.checkpoint import restore
from jaxllm.config import LinearScalingConfig, Llama3ScalingConfig, RotaryConfig, YarnScalingConfig
from jaxllm.nn.position import rotary_cos_sin
from tests import tiny

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.torch

LONG = {"hidden_size": 64, "num_attention_heads": 1, "num_key_value_heads": 1, "max_position_embeddings": 4096}
LENGTH = 3000
ROPE_PARAMETERS = {
    "default": {"rope_type": "default", "rope_theta": 500000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "llama3": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0}
    | {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
    "yarn": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 16.0, "original_max_position_embeddings": 4096},
}
ROTARY_CONFIGS = {
    "default": RotaryConfig(500000.0),
    "linear": RotaryConfig(10000.0, LinearScalingConfig(4.0)),
    "llama3": RotaryConfig(500000.0, Llama3ScalingConfig(8.0, 8192, 1.0, 4.0)),
    "yarn": RotaryConfig(10000.0, YarnScalingConfig(16.0, 4096, 0.1 * np.log(16.0) + 1)),
}


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("kind", ["default", "yarn"])
def test_logits_far_out(kind, dtype, tmp_path):
    source = tiny.write(tmp_path / "source", tiny.CASES["llama"] | LONG | {"rope_parameters": ROPE_PARAMETERS[kind]})
    tokens = np.random.default_rng(0).integers(0, 101, (1, LENGTH), np.int32)
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, dtype))
    with torch.no_grad():
        theirs = model(torch.from_numpy(tokens).long()).logits.numpy()
    with jax.enable_x64(dtype == "float64"):
        ours = jax.jit(lambda model, tokens: model(tokens))(
            restore(convert(source, tmp_path / "native"), dtype=dtype), tokens
        )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=BOUNDS[dtype] * np.abs(theirs).max())


@pytest.mark.parametrize("dtype", BOUNDS)
def test_logits_across_the_original_length(dtype, tmp_path):
    """Up to LongRoPE's original length a cached row is PyTorch's of that length; beyond, PyTorch's of the whole."""
    original, source = 1000, tmp_path / "source"
    factors = {"short_factor": [1.0] * 32, "long_factor": np.linspace(1, 30, 32).tolist()}
    scaling = {"original_max_position_embeddings": original, "rope_scaling": {"type": "longrope", **factors}}
    tiny.write(source, tiny.CASES["phi3"] | LONG | scaling)
    tokens = np.random.default_rng(0).integers(0, 101, (1, LENGTH), np.int32)
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, dtype))
    with torch.no_grad():
        below, whole = (model(torch.from_numpy(tokens[:, :n]).long()).logits.numpy() for n in (original, LENGTH))
    theirs = np.concatenate([below, whole[:, original:]], axis=1)
    step = jax.jit(lambda model, tokens, cache: model.hidden(tokens, cache=cache))
    with jax.enable_x64(dtype == "float64"):
        model = restore(convert(source, tmp_path / "native"), dtype=dtype)
        states, cache = [], model.new_cache(1, LENGTH)
        for part in np.split(tokens, [990, *range(991, 1010)], axis=1):
            x, cache = step(model, part, cache)
            states.append(x)
        ours = jax.jit(type(model).logits)(model, jnp.concatenate(states, axis=1))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=BOUNDS[dtype] * np.abs(theirs).max())


@pytest.mark.parametrize("kind", ROPE_PARAMETERS)
def test_rotary_tables_are_pytorchs_to_the_bit_of_the_angle(kind):
    """At position 131,000, where an angle is known to 0.008: a table off by one unit of a frequency is off by that."""
    settings = {"rope_parameters": dict(ROPE_PARAMETERS[kind]), "head_dim": 128, "max_position_embeddings": 131072}
    embedding = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(transformers.LlamaConfig(**settings))
    start = 131000
    cos, sin = (table[0, :, :64].numpy() for table in embedding(torch.zeros(1), torch.arange(start, start + 50)[None]))
    tables = jax.jit(
        lambda start: rotary_cos_sin(ROTARY_CONFIGS[kind], 128, (start + jnp.arange(50))[None], start + 50)
    )
    ours = tables(jnp.array([start], jnp.int32))
    np.testing.assert_allclose(ours[0][0], cos, rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours[1][0], sin, rtol=0, atol=1e-6)
