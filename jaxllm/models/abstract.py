"""Models without arrays: shapes, dtypes and shardings, from which checkpoints are converted, restored and planned."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.config import DecoderConfig, EncoderConfig, EncoderDecoderConfig, ModelConfig
from jaxllm.models.decoder import Decoder
from jaxllm.models.encoder import Encoder
from jaxllm.models.encoder_decoder import EncoderDecoder
from jaxllm.nn.parameter import named_parameters, replace_parameters
from jaxllm.sharding import named_sharding

_MODELS: dict[type, type[Any]] = {
    DecoderConfig: Decoder,
    EncoderConfig: Encoder,
    EncoderDecoderConfig: EncoderDecoder,
}


def abstract(config: ModelConfig, dtype: Any = jnp.float32, mesh: Any = None, offload: bool = False) -> Any:
    """Returns the model of a config with `jax.ShapeDtypeStruct`s instead of arrays. Nothing is allocated.

    Args:
      config: what the model consists of.
      dtype: dtype of the parameters.
      mesh: mesh to shard the parameters over, if any.
      offload: whether the layers' parameters are placed in host memory.

    Raises:
      InputError: the model cannot be split over the mesh.
    """
    model = _MODELS[type(config)](config, rngs=None, dtype=dtype, mesh=mesh)
    if mesh is None:
        return model
    shapes = {}
    for name, parameter in named_parameters(model):
        stored_name = next(filter(None, model.stage_names(name) or (name,)))
        sharding = named_sharding(stored_name, parameter.axes, parameter.shape, mesh)
        if offload and config.split_name(name)[0] is not None:
            sharding = sharding.with_memory_kind("pinned_host")
        shapes[name] = jax.ShapeDtypeStruct(parameter.shape, parameter.dtype, sharding=sharding)
    return replace_parameters(model, shapes)
