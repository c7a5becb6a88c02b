"""Qwen1.5-MoE and Qwen2-MoE: routed experts, and a shared expert with a gate of its own."""

from dataclasses import replace

from conversion.architectures.llama import ATTENTION, EMBEDDING, EMBEDDING_AND_HEAD, FEED_FORWARD, IGNORED, NORMS
from conversion.architectures.mixtral import expert_rows
from conversion.builders import FULL, ConfigReader, Sizes, decoder, gated_feed_forward, layer_types, rms_norm, rotary
from conversion.table import TableRow, WeightTable
from jaxllm.config import BlockConfig, DecoderConfig, FeedForwardConfig, MixtureOfExpertsConfig, RouterConfig

_OURS = "layers.{i}.feed_forward."
_THEIRS = "model.layers.{i}.mlp."

EXPERTS = expert_rows(_THEIRS, "gate_proj", "up_proj", "down_proj")


def shared_rows(theirs: str) -> tuple[TableRow, ...]:
    """Returns the rows of the shared expert, whose tensors are in `mlp.{theirs}`."""
    return (
        TableRow(_OURS + "shared_expert.gate.weight", _THEIRS + theirs + ".gate_proj.weight", "f d -> f d"),
        TableRow(_OURS + "shared_expert.up.weight", _THEIRS + theirs + ".up_proj.weight", "f d -> f d"),
        TableRow(_OURS + "shared_expert.down.weight", _THEIRS + theirs + ".down_proj.weight", "d f -> d f"),
    )


_GATE = TableRow(_OURS + "shared_expert_gate.weight", _THEIRS + "shared_expert_gate.weight", "g d -> g d")
TABLE = WeightTable(
    (*EMBEDDING_AND_HEAD, *NORMS, *ATTENTION, *FEED_FORWARD, *EXPERTS, *shared_rows("shared_expert"), _GATE),
    IGNORED,
    EMBEDDING,
)


def router(reader: ConfigReader, experts: int, per_token: int, normalize: bool = False) -> RouterConfig:
    """Builds a softmax router. `experts`, `per_token` and `normalize` are the defaults of its three keys."""
    reader.alias("num_experts", "num_local_experts")
    return RouterConfig(
        reader.size("num_experts", experts),
        reader.size("num_experts_per_tok", per_token),
        norm_topk_prob=reader.flag("norm_topk_prob", normalize),
    )


def expert(reader: ConfigReader, dense: FeedForwardConfig, hidden: int) -> FeedForwardConfig:
    """Builds one expert: the dense network with `moe_intermediate_size`, which defaults to `hidden`."""
    return replace(dense, hidden=reader.size("moe_intermediate_size", hidden))


def sparse_layers(reader: ConfigReader, layers: int) -> list[bool]:
    """Tells for each layer whether it has experts: every `decoder_sparse_step`-th does unless listed as dense."""
    step = reader.size("decoder_sparse_step", 1)
    dense = reader.indices("mlp_only_layers")
    return [layer not in dense and (layer + 1) % step == 0 for layer in range(layers)]


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `Qwen2MoeConfig`; defaults are those of Transformers."""
    reader.neutral("use_sliding_window", (False,))  # Transformers and the authors disagree on which layers have it
    for name in ("sliding_window", "max_window_layers"):
        reader.take(name, None)
    sizes = Sizes.of(reader, 2048, 24, 16, kv_heads=16)
    norm = rms_norm(reader)
    layer_types(reader, sizes.layers, [FULL], [FULL])
    position, context = rotary(reader, reader.size("max_position_embeddings", 32768), sizes.head_dim)
    attention = sizes.attention(position, bias=reader.flag("qkv_bias", True))
    dense = gated_feed_forward(reader, 5632)
    shared = replace(dense, hidden=reader.size("shared_expert_intermediate_size", 5632))
    mixture = MixtureOfExpertsConfig(
        router(reader, 60, 4), expert(reader, dense, 1408), shared, shared_expert_gate=True
    )
    sparse_block = BlockConfig(attention, mixture, pre_norm=norm)
    dense_block = BlockConfig(attention, dense, pre_norm=norm)
    blocks = [sparse_block if sparse else dense_block for sparse in sparse_layers(reader, sizes.layers)]
    return decoder(reader, sizes, blocks, norm, context, vocab_size=151936, eos=None)
