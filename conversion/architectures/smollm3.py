"""SmolLM3: a Llama with grouped heads in which every fourth layer is without positions."""

from conversion.architectures.llama import TABLE
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.sizes import FULL, SLIDING, Sizes, decoder, gated, rms_norm, windows
from jaxllm import config
from jaxllm.errors import InputError

__all__ = ["CLASS", "TABLE", "from_hf"]

CLASS = "SmolLM3ForCausalLM"


def _turned(keys: Keys, layers: int) -> list[bool]:
    """Which layers have rotary positions: those marked 1 in `no_rope_layers`, or all but every fourth (or as given)."""
    every = keys.size("no_rope_layer_interval", 4)
    marks = keys.take("no_rope_layers", None, (list, type(None)))
    if marks is None:
        return [(i + 1) % every != 0 for i in range(layers)]
    if len(marks) < layers or any(mark not in (0, 1) for mark in marks):
        raise InputError(f"config.json: no_rope_layers must be 0 or 1 for each of {layers} layers")
    return [bool(mark) for mark in marks[:layers]]


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `SmolLM3Config`'s keys; defaults are Transformers'."""
    keys.take("max_window_layers", None)  # Qwen's, without effect
    sizes, norm = Sizes.of(keys, 2048, 36, 16, kv_heads=4), rms_norm(keys)
    length = keys.size("max_position_embeddings", 32768)
    position, context = rotary(keys, length, sizes.head_dim, theta=2_000_000.0)
    feed_forward = gated(keys, 11008, bias=keys.flag("mlp_bias", False))
    size, bias = keys.size_or_none("sliding_window", None), keys.flag("attention_bias", False)
    window, turned = size if keys.flag("use_sliding_window", False) else None, _turned(keys, sizes.layers)
    kinds = [SLIDING if window and not turns else FULL for turns in turned]
    blocks = [
        config.Block(
            norm,
            sizes.attention(position if turns else None, bias=bias, output_bias=bias, window=each),
            feed_forward,
        )
        for turns, each in zip(turned, windows(keys, sizes.layers, window, kinds), strict=True)
    ]
    return decoder(keys, sizes, blocks, norm, context, vocab_size=128256, tied=True, eos=128001)
