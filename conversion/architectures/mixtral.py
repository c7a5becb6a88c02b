"""Mixtral: Mistral with a mixture of gated experts, two for each token."""

from conversion.architectures.llama import ATTENTION, EMBEDDING, EMBEDDING_AND_HEAD, IGNORED, NORMS
from conversion.builders import ACTIVATIONS, ConfigReader, Sizes, decoder, rms_norm, rotary
from conversion.table import TableRow, WeightTable
from jaxllm.config import BlockConfig, DecoderConfig, FeedForwardConfig, MixtureOfExpertsConfig, RouterConfig

_OURS = "layers.{i}.feed_forward."


def expert_rows(theirs: str, gate: str, up: str, down: str) -> tuple[TableRow, ...]:
    """Returns the rows of a router and its experts, given their prefix and the names of an expert's projections."""
    return (
        TableRow(_OURS + "router.linear.weight", theirs + "gate.weight", "e d -> e d"),
        TableRow(_OURS + "experts.gate.weight", theirs + f"experts.{{e}}.{gate}.weight", "e f d -> e f d"),
        TableRow(_OURS + "experts.up.weight", theirs + f"experts.{{e}}.{up}.weight", "e f d -> e f d"),
        TableRow(_OURS + "experts.down.weight", theirs + f"experts.{{e}}.{down}.weight", "e d f -> e d f"),
    )


TABLE = WeightTable(
    EMBEDDING_AND_HEAD + NORMS + ATTENTION + expert_rows("model.layers.{i}.block_sparse_moe.", "w1", "w3", "w2"),
    IGNORED,
    EMBEDDING,
)


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `MixtralConfig`; defaults are those of Transformers."""
    reader.neutral("attention_bias", (False, None))
    reader.alias("num_local_experts", "num_experts")
    sizes = Sizes.of(reader, kv_heads=8)
    norm = rms_norm(reader, 1e-5)
    position, context = rotary(reader, reader.size("max_position_embeddings", 131072), sizes.head_dim, theta=1e6)
    attention = sizes.attention(position, window=reader.size_or_none("sliding_window", None))
    router = RouterConfig(reader.size("num_local_experts", 8), reader.size("num_experts_per_tok", 2))
    activation = reader.choice("hidden_act", ACTIVATIONS, "silu")
    expert = FeedForwardConfig(reader.size("intermediate_size", 14336), activation, gated=True)
    block = BlockConfig(attention, MixtureOfExpertsConfig(router, expert), pre_norm=norm)
    return decoder(reader, sizes, [block], norm, context, vocab_size=32000, eos=2)
