"""GLM-4-0414 and GLM-Z1: a GLM with norms before and behind attention and feed-forward."""

from functools import partial

from conversion.architectures import glm
from conversion.architectures.llama import EMBEDDING, IGNORED
from conversion.table import Row, Table

_LAYER, _THEIRS = "layers.{i}.", "model.layers.{i}."

TABLE = Table(
    (
        *glm.TABLE.rows,
        Row(_LAYER + "attention_output_norm.weight", _THEIRS + "post_self_attn_layernorm.weight", "d -> d"),
        Row(_LAYER + "feed_forward_output_norm.weight", _THEIRS + "post_mlp_layernorm.weight", "d -> d"),
    ),
    IGNORED,
    EMBEDDING,
)

from_hf = partial(glm.from_hf, placement="around")
