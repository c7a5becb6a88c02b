"""Mixtral: a Mistral with a mixture of gated experts, two for each token, in place of the feed-forward network."""

from conversion.activations import ACTIVATIONS
from conversion.architectures.llama import ATTENTION, EMBEDDING, ENDS, IGNORED, NORMS
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.sizes import Sizes, decoder, rms_norm
from conversion.table import Row, Table
from jaxllm import config

_OURS = "layers.{i}.feed_forward."


def expert_rows(theirs: str, gate: str, up: str, down: str) -> tuple[Row, ...]:
    """The router and the experts of a mixture under the name `theirs`, each expert's maps by their names."""
    return (
        Row(_OURS + "router.map.weight", theirs + "gate.weight", "e d -> e d"),
        Row(_OURS + "experts.gate.weight", theirs + f"experts.{{e}}.{gate}.weight", "e f d -> e f d"),
        Row(_OURS + "experts.up.weight", theirs + f"experts.{{e}}.{up}.weight", "e f d -> e f d"),
        Row(_OURS + "experts.down.weight", theirs + f"experts.{{e}}.{down}.weight", "e d f -> e d f"),
    )


TABLE = Table(
    ENDS + NORMS + ATTENTION + expert_rows("model.layers.{i}.block_sparse_moe.", "w1", "w3", "w2"), IGNORED, EMBEDDING
)


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `MixtralConfig`'s keys; defaults are Transformers'."""
    keys.neutral("attention_bias", (False, None))
    keys.alias("num_local_experts", "num_experts")
    sizes, norm = Sizes.of(keys, kv_heads=8), rms_norm(keys, 1e-5)
    position, context = rotary(keys, keys.size("max_position_embeddings", 131072), sizes.head_dim, theta=1e6)
    attention = sizes.attention(position, window=keys.size_or_none("sliding_window", None))
    router = config.Router(keys.size("num_local_experts", 8), keys.size("num_experts_per_tok", 2))
    activation = keys.choice("hidden_act", ACTIVATIONS, "silu")
    expert = config.FeedForward(keys.size("intermediate_size", 14336), activation, gated=True)
    block = config.Block(norm, attention, config.Mixture(router, expert))
    return decoder(keys, sizes, [block], norm, context, vocab_size=32000, eos=2)
