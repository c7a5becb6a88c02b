"""gpt-oss: attention sinks, windows in every other layer, and experts with biases and a clipped gate."""

from conversion.architectures.llama import ATTENTION, EMBEDDING, ENDS, IGNORED, NORMS
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.sizes import FULL, SLIDING, Sizes, decoder, rms_norm, windows
from conversion.table import Row, Table
from jaxllm import config

_OURS, _THEIRS = "layers.{i}.feed_forward.", "model.layers.{i}.mlp."
_GATE_UP = (_OURS + "experts.gate.", _OURS + "experts.up.")

_SINKS = Row("layers.{i}.attention.sinks", "model.layers.{i}.self_attn.sinks", "n -> n")
_MIXTURE = (
    Row(_OURS + "router.map.weight", _THEIRS + "router.weight", "e d -> e d"),
    Row(_OURS + "router.map.bias", _THEIRS + "router.bias", "e -> e"),
    Row(tuple(n + "weight" for n in _GATE_UP), _THEIRS + "experts.gate_up_proj", "e d (f p) -> e (f p) d", "p"),
    Row(tuple(n + "bias" for n in _GATE_UP), _THEIRS + "experts.gate_up_proj_bias", "e (f p) -> e (f p)", "p"),
    Row(_OURS + "experts.down.weight", _THEIRS + "experts.down_proj", "e f d -> e d f"),
    Row(_OURS + "experts.down.bias", _THEIRS + "experts.down_proj_bias", "e d -> e d"),
)

TABLE = Table((*ENDS, *NORMS, *ATTENTION, _SINKS, *_MIXTURE), IGNORED, EMBEDDING)

_YARN = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "truncate": False}


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `GptOssConfig`'s keys; defaults are Transformers'."""
    keys.neutral("hidden_act", ("silu",))
    keys.take("initial_context_length", None)  # the authors' name of yarn's original length
    keys.alias("num_local_experts", "num_experts")
    keys.alias("num_experts_per_tok", "experts_per_token")
    sizes, norm = Sizes.of(keys, 2880, 36, 64, kv_heads=8, head_dim=64), rms_norm(keys, 1e-5)
    length = keys.size("max_position_embeddings", 131072)
    position, context = rotary(keys, length, sizes.head_dim, theta=150_000.0, default=_YARN)
    bias = keys.flag("attention_bias", True)
    swiglu = config.ClippedSwiglu(float(keys.number("swiglu_alpha", 1.702)), float(keys.number("swiglu_limit", 7.0)))
    expert = config.FeedForward(keys.size("intermediate_size", 2880), swiglu, gated=True, bias=True)
    router = config.Router(keys.size("num_local_experts", 128), keys.size("num_experts_per_tok", 4), bias=True)
    default = [FULL if layer % 2 else SLIDING for layer in range(sizes.layers)]
    blocks = [
        config.Block(
            norm,
            sizes.attention(position, bias=bias, output_bias=bias, window=window, sinks=True),
            config.Mixture(router, expert),
        )
        for window in windows(keys, sizes.layers, keys.size_or_none("sliding_window", 128), default)
    ]
    return decoder(keys, sizes, blocks, norm, context, vocab_size=201088, eos=None)
