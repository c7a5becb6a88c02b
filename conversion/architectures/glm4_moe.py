"""GLM 4.5: half of each head turned, heads normalised in some models, and DeepSeek-V3's mixtures."""

from conversion.architectures.deepseek_v3 import CORRECTION, FURTHER, SHARED, dense_then_mixtures, sigmoid_router
from conversion.architectures.llama import ATTENTION, EMBEDDING, ENDS, FEED_FORWARD, IGNORED, NORMS
from conversion.architectures.qwen2_moe import EXPERTS
from conversion.architectures.qwen3 import HEAD_NORMS
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.sizes import Sizes, decoder, gated, rms_norm
from conversion.table import Table
from jaxllm import config

TABLE = Table(
    (*ENDS, *NORMS, *ATTENTION, *HEAD_NORMS, *FEED_FORWARD, *EXPERTS, *SHARED, CORRECTION),
    IGNORED,
    EMBEDDING,
    further=FURTHER,
)


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `Glm4MoeConfig`'s keys; defaults are Transformers'."""
    sizes, norm = Sizes.of(keys, 4096, 46, 96, kv_heads=8), rms_norm(keys, 1e-5)
    position, context = rotary(keys, keys.size("max_position_embeddings", 131072), sizes.head_dim, fraction=0.5)
    head_norm = config.HeadNorm(norm) if keys.flag("use_qk_norm", False) else None
    attention = sizes.attention(position, bias=keys.flag("attention_bias", False), head_norm=head_norm)
    router = sigmoid_router(keys, 128, 8, groups=1, kept=1)
    parts = dense_then_mixtures(keys, sizes.layers, router, gated(keys, 10944), hidden=1408, shared=1, first=1)
    blocks = [config.Block(norm, attention, part) for part in parts]
    return decoder(keys, sizes, blocks, norm, context, vocab_size=151552, eos=None)
