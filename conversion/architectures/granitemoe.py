"""Granite 3's mixtures: Granite's multipliers, and experts whose gates and ups come as one tensor."""

from conversion.architectures.granite import decoder_of
from conversion.architectures.llama import ATTENTION, EMBEDDING, ENDS, IGNORED, NORMS
from conversion.keys import Keys
from conversion.sizes import gated
from conversion.table import Row, Table
from jaxllm import config

_OURS, _THEIRS = "layers.{i}.feed_forward.", "model.layers.{i}.block_sparse_moe."
_GATE_UP = (_OURS + "experts.gate.weight", _OURS + "experts.up.weight")
_MIXTURE = (
    Row(_OURS + "router.map.weight", _THEIRS + "router.layer.weight", "e d -> e d"),
    Row(_GATE_UP, _THEIRS + "input_linear.weight", "e (p f) d -> e (p f) d", "p"),
    Row(_OURS + "experts.down.weight", _THEIRS + "output_linear.weight", "e d f -> e d f"),
)

CLASS = "GraniteMoeForCausalLM"
TABLE = Table(ENDS + NORMS + ATTENTION + _MIXTURE, IGNORED, EMBEDDING)


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `GraniteMoeConfig`'s keys; defaults are Transformers'."""
    keys.take("init_method", None)  # of the training
    keys.alias("num_local_experts", "num_experts")
    router = config.Router(keys.size("num_local_experts", 8), keys.size("num_experts_per_tok", 2))
    return decoder_of(keys, config.Mixture(router, gated(keys, 11008)))
