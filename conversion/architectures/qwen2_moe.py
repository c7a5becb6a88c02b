"""Qwen 1.5's and 2's mixtures: small experts, and beside them one that sees every token and has its own gate."""

from dataclasses import replace

from conversion.architectures.llama import ATTENTION, EMBEDDING, ENDS, FEED_FORWARD, IGNORED, NORMS
from conversion.architectures.mixtral import expert_rows
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.sizes import FULL, Sizes, decoder, gated, layer_types, rms_norm
from conversion.table import Row, Table
from jaxllm import config

_OURS, _THEIRS = "layers.{i}.feed_forward.", "model.layers.{i}.mlp."

EXPERTS = expert_rows(_THEIRS, "gate_proj", "up_proj", "down_proj")


def shared_rows(theirs: str) -> tuple[Row, ...]:
    """The expert that sees every token, by its name in the layer's `mlp`."""
    return (
        Row(_OURS + "shared.gate.weight", _THEIRS + theirs + ".gate_proj.weight", "f d -> f d"),
        Row(_OURS + "shared.up.weight", _THEIRS + theirs + ".up_proj.weight", "f d -> f d"),
        Row(_OURS + "shared.down.weight", _THEIRS + theirs + ".down_proj.weight", "d f -> d f"),
    )


_GATE = Row(_OURS + "shared_gate.weight", _THEIRS + "shared_expert_gate.weight", "g d -> g d")
TABLE = Table(
    (*ENDS, *NORMS, *ATTENTION, *FEED_FORWARD, *EXPERTS, *shared_rows("shared_expert"), _GATE), IGNORED, EMBEDDING
)


def router(keys: Keys, experts: int, per_token: int, normalize: bool = False) -> config.Router:
    """A softmax router as most mixtures spell it, the defaults given."""
    keys.alias("num_experts", "num_local_experts")
    return config.Router(
        keys.size("num_experts", experts),
        keys.size("num_experts_per_tok", per_token),
        normalize=keys.flag("norm_topk_prob", normalize),
    )


def expert(keys: Keys, dense: config.FeedForward, hidden: int) -> config.FeedForward:
    """One expert: as the dense network, but of its own size, the default of which is given."""
    return replace(dense, hidden=keys.size("moe_intermediate_size", hidden))


def sparse_layers(keys: Keys, layers: int) -> list[bool]:
    """Which layers have experts: every `decoder_sparse_step`-th, less those that are listed as dense."""
    step, dense = keys.size("decoder_sparse_step", 1), keys.indices("mlp_only_layers")
    return [layer not in dense and (layer + 1) % step == 0 for layer in range(layers)]


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `Qwen2MoeConfig`'s keys; defaults are Transformers'."""
    keys.neutral("use_sliding_window", (False,))  # Transformers and the authors disagree on which layers have it
    for name in ("sliding_window", "max_window_layers"):
        keys.take(name, None)
    sizes, norm = Sizes.of(keys, 2048, 24, 16, kv_heads=16), rms_norm(keys)
    layer_types(keys, sizes.layers, [FULL], [FULL])
    position, context = rotary(keys, keys.size("max_position_embeddings", 32768), sizes.head_dim)
    attention = sizes.attention(position, bias=keys.flag("qkv_bias", True))
    dense = gated(keys, 5632)
    shared = replace(dense, hidden=keys.size("shared_expert_intermediate_size", 5632))
    mixture = config.Mixture(router(keys, 60, 4), expert(keys, dense, 1408), shared, shared_gate=True)
    blocks = [config.Block(norm, attention, mixture if s else dense) for s in sparse_layers(keys, sizes.layers)]
    return decoder(keys, sizes, blocks, norm, context, vocab_size=151936, eos=None)
