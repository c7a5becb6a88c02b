"""OLMoE: queries and keys normalised over all heads together, and 64 small experts, eight for each token."""

from conversion.architectures.llama import ATTENTION, EMBEDDING, ENDS, IGNORED, NORMS
from conversion.architectures.olmo2 import HEAD_NORMS
from conversion.architectures.qwen2_moe import EXPERTS, router
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.sizes import Sizes, decoder, gated, rms_norm
from conversion.table import Table
from jaxllm import config

TABLE = Table(ENDS + NORMS + ATTENTION + HEAD_NORMS + EXPERTS, IGNORED, EMBEDDING)


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `OlmoeConfig`'s keys; defaults are Transformers'."""
    keys.neutral("clip_qkv", (None,))
    sizes, norm = Sizes.of(keys, 2048, 16, 16), rms_norm(keys, 1e-5)
    position, context = rotary(keys, keys.size("max_position_embeddings", 4096), sizes.head_dim)
    bias = keys.flag("attention_bias", False)
    head_norm = config.HeadNorm(norm, "all heads")
    attention = sizes.attention(position, bias=bias, output_bias=bias, head_norm=head_norm)
    block = config.Block(norm, attention, config.Mixture(router(keys, 64, 8), gated(keys, 2048)))
    return decoder(keys, sizes, [block], norm, context, vocab_size=50304, eos=50279)
