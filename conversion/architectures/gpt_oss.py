"""gpt-oss: attention sinks, a window in every other layer, and experts with biases and a clipped gate."""

from conversion.architectures.llama import ATTENTION, EMBEDDING, EMBEDDING_AND_HEAD, IGNORED, NORMS
from conversion.builders import FULL, SLIDING, ConfigReader, Sizes, decoder, rms_norm, rotary, windows
from conversion.table import TableRow, WeightTable
from jaxllm.config import (
    BlockConfig,
    ClippedSwiGLUConfig,
    DecoderConfig,
    FeedForwardConfig,
    MixtureOfExpertsConfig,
    RouterConfig,
)

_OURS = "layers.{i}.feed_forward."
_THEIRS = "model.layers.{i}.mlp."
_GATE_UP = (_OURS + "experts.gate.", _OURS + "experts.up.")

_SINKS = TableRow("layers.{i}.attention.sinks", "model.layers.{i}.self_attn.sinks", "n -> n")
_MIXTURE = (
    TableRow(_OURS + "router.linear.weight", _THEIRS + "router.weight", "e d -> e d"),
    TableRow(_OURS + "router.linear.bias", _THEIRS + "router.bias", "e -> e"),
    TableRow(tuple(n + "weight" for n in _GATE_UP), _THEIRS + "experts.gate_up_proj", "e d (f p) -> e (f p) d", "p"),
    TableRow(tuple(n + "bias" for n in _GATE_UP), _THEIRS + "experts.gate_up_proj_bias", "e (f p) -> e (f p)", "p"),
    TableRow(_OURS + "experts.down.weight", _THEIRS + "experts.down_proj", "e f d -> e d f"),
    TableRow(_OURS + "experts.down.bias", _THEIRS + "experts.down_proj_bias", "e d -> e d"),
)

TABLE = WeightTable((*EMBEDDING_AND_HEAD, *NORMS, *ATTENTION, _SINKS, *_MIXTURE), IGNORED, EMBEDDING)

_YARN = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "truncate": False}


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `GptOssConfig`; defaults are those of Transformers."""
    reader.neutral("hidden_act", ("silu",))
    reader.take("initial_context_length", None)  # the authors' name of yarn's original length
    reader.alias("num_local_experts", "num_experts")
    reader.alias("num_experts_per_tok", "experts_per_token")
    sizes = Sizes.of(reader, 2880, 36, 64, kv_heads=8, head_dim=64)
    norm = rms_norm(reader, 1e-5)
    length = reader.size("max_position_embeddings", 131072)
    position, context = rotary(reader, length, sizes.head_dim, theta=150_000.0, default=_YARN)
    bias = reader.flag("attention_bias", True)
    swiglu = ClippedSwiGLUConfig(float(reader.number("swiglu_alpha", 1.702)), float(reader.number("swiglu_limit", 7.0)))
    expert = FeedForwardConfig(reader.size("intermediate_size", 2880), swiglu, gated=True, bias=True)
    router = RouterConfig(reader.size("num_local_experts", 128), reader.size("num_experts_per_tok", 4), bias=True)
    default = [FULL if layer % 2 else SLIDING for layer in range(sizes.layers)]
    blocks = [
        BlockConfig(
            sizes.attention(position, bias=bias, output_bias=bias, window=window, sinks=True),
            MixtureOfExpertsConfig(router, expert),
            pre_norm=norm,
        )
        for window in windows(reader, sizes.layers, reader.size_or_none("sliding_window", 128), default)
    ]
    return decoder(reader, sizes, blocks, norm, context, vocab_size=201088, eos=None)
