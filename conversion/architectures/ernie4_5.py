"""ERNIE 4.5, the dense ones: a Llama whose neighbouring dimensions are turned."""

from conversion.architectures.llama import TABLE
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.sizes import Sizes, decoder, gated, rms_norm
from jaxllm import config

__all__ = ["CLASS", "TABLE", "from_hf"]

CLASS = "Ernie4_5ForCausalLM"


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `Ernie4_5Config`'s keys; defaults are Transformers'."""
    keys.neutral("compression_ratio", (1, None))
    sizes = Sizes.of(keys, dim=1024, layers=18, heads=16, kv_heads=2, head_dim=128)
    norm, length = rms_norm(keys, 1e-5), keys.size("max_position_embeddings", 131072)
    position, context = rotary(keys, length, sizes.head_dim, theta=500_000.0, interleaved=True)
    bias = keys.flag("use_bias", False)
    attention = sizes.attention(position, bias=bias, output_bias=bias)
    block = config.Block(norm, attention, gated(keys, 3072, bias=bias))
    return decoder(keys, sizes, [block], norm, context, vocab_size=103424, tied=True, eos=2)
