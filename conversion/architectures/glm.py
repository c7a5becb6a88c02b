"""GLM-4 9B: a Llama whose neighbouring dimensions are turned, half of each head, with a fused gate."""

from dataclasses import replace

from conversion.architectures.llama import ATTENTION, EMBEDDING, ENDS, IGNORED, NORMS
from conversion.architectures.phi3 import FUSED_FEED_FORWARD
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.sizes import Sizes, decoder, gated, rms_norm
from conversion.table import Table
from jaxllm import config

TABLE = Table(ENDS + NORMS + ATTENTION + FUSED_FEED_FORWARD, IGNORED, EMBEDDING)


def from_hf(keys: Keys, placement: str = "before") -> config.Decoder:
    """Our config from `GlmConfig`'s keys, or those of a relative with norms elsewhere; defaults are Transformers'."""
    sizes = Sizes.of(keys, layers=40, kv_heads=2, head_dim=128)
    norm, length = rms_norm(keys, 1.5625e-7), keys.size("max_position_embeddings", 131072)
    position, context = rotary(keys, length, sizes.head_dim, fraction=0.5, interleaved=True)
    attention = sizes.attention(position, bias=keys.flag("attention_bias", True))
    block = config.Block(norm, attention, gated(keys, 13696), placement)
    model = decoder(keys, sizes, [block], norm, context, vocab_size=151552, eos=None)
    return replace(model, eos_token_ids=model.eos_token_ids or (151329, 151336, 151338))
