"""GLM-4-0414 and GLM-Z1: GLM with sandwich norms."""

from functools import partial

from conversion.architectures import glm
from conversion.architectures.llama import EMBEDDING, IGNORED
from conversion.table import TableRow, WeightTable

_LAYER = "layers.{i}."
_THEIRS = "model.layers.{i}."

TABLE = WeightTable(
    (
        *glm.TABLE.rows,
        TableRow(_LAYER + "attention_output_norm.weight", _THEIRS + "post_self_attn_layernorm.weight", "d -> d"),
        TableRow(_LAYER + "feed_forward_output_norm.weight", _THEIRS + "post_mlp_layernorm.weight", "d -> d"),
    ),
    IGNORED,
    EMBEDDING,
)

from_hf = partial(glm.from_hf, sandwich_norm=True)
