"""Granite 3 (mixture of experts): Granite with experts whose gate and up projections are fused."""

from conversion.architectures.granite import decoder_of
from conversion.architectures.llama import ATTENTION, EMBEDDING, EMBEDDING_AND_HEAD, IGNORED, NORMS
from conversion.builders import ConfigReader, gated_feed_forward
from conversion.table import TableRow, WeightTable
from jaxllm.config import DecoderConfig, MixtureOfExpertsConfig, RouterConfig

_OURS = "layers.{i}.feed_forward."
_THEIRS = "model.layers.{i}.block_sparse_moe."
_GATE_UP = (_OURS + "experts.gate.weight", _OURS + "experts.up.weight")
_MIXTURE = (
    TableRow(_OURS + "router.linear.weight", _THEIRS + "router.layer.weight", "e d -> e d"),
    TableRow(_GATE_UP, _THEIRS + "input_linear.weight", "e (p f) d -> e (p f) d", "p"),
    TableRow(_OURS + "experts.down.weight", _THEIRS + "output_linear.weight", "e d f -> e d f"),
)

CLASS = "GraniteMoeForCausalLM"
TABLE = WeightTable(EMBEDDING_AND_HEAD + NORMS + ATTENTION + _MIXTURE, IGNORED, EMBEDDING)


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `GraniteMoeConfig`; defaults are those of Transformers."""
    reader.take("init_method", None)  # of the training
    reader.alias("num_local_experts", "num_experts")
    router = RouterConfig(reader.size("num_local_experts", 8), reader.size("num_experts_per_tok", 2))
    return decoder_of(reader, MixtureOfExpertsConfig(router, gated_feed_forward(reader, 11008)))
