"""Gemma 1: a Llama with GELU, norms whose weights are stored less one, and a scaled embedding that is the head too."""

from conversion.activations import ACTIVATIONS
from conversion.architectures.llama import TABLE
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.sizes import Sizes, decoder, rms_norm
from jaxllm import config

__all__ = ["TABLE", "causal_only", "feed_forward", "from_hf"]

_MEANT = ACTIVATIONS | {"gelu": "gelu_tanh"}  # in configs of old, whatever the name says


def causal_only(keys: Keys) -> None:
    """Refuses the variants that encode texts, which look ahead."""
    keys.neutral("use_bidirectional_attention", (False, None))


def feed_forward(keys: Keys, hidden: int, name: str, other: str, options: dict[str, str]) -> config.FeedForward:
    """The gated network; a second key that names an activation must not contradict the first."""
    activation = keys.choice(name, options, "gelu_pytorch_tanh")
    keys.neutral(other, (None, *(theirs for theirs, ours in ACTIVATIONS.items() if ours == activation)))
    return config.FeedForward(keys.size("intermediate_size", hidden), activation, gated=True)


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `GemmaConfig`'s keys; defaults are Transformers'."""
    causal_only(keys)
    sizes, norm = Sizes.of(keys, 3072, 28, 16, kv_heads=16, head_dim=256), rms_norm(keys, offset=1.0)
    position, context = rotary(keys, keys.size("max_position_embeddings", 8192), sizes.head_dim)
    bias = keys.flag("attention_bias", False)
    attention = sizes.attention(position, bias=bias, output_bias=bias)
    block = config.Block(norm, attention, feed_forward(keys, 24576, "hidden_act", "hidden_activation", _MEANT))
    scale = sizes.dim**0.5
    return decoder(keys, sizes, [block], norm, context, vocab_size=256000, tied=True, eos=1, embed_scale=scale)
