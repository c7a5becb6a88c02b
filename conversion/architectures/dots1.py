"""dots.llm1: normalised heads, windows in the upper layers if anywhere, and DeepSeek-V3's mixtures."""

from conversion.architectures.deepseek_v3 import CORRECTION, SHARED, dense_then_mixtures, sigmoid_router
from conversion.architectures.llama import ATTENTION, EMBEDDING, ENDS, FEED_FORWARD, IGNORED, NORMS
from conversion.architectures.qwen2_moe import EXPERTS
from conversion.architectures.qwen3 import HEAD_NORMS
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.sizes import FULL, SLIDING, Sizes, decoder, gated, rms_norm, windows
from conversion.table import Table
from jaxllm import config

TABLE = Table(
    (*ENDS, *NORMS, *ATTENTION, *HEAD_NORMS, *FEED_FORWARD, *EXPERTS, *SHARED, CORRECTION), IGNORED, EMBEDDING
)


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `Dots1Config`'s keys; defaults are Transformers'."""
    keys.neutral("use_sliding_window", (False, None))
    sizes, norm = Sizes.of(keys, 4608, 62, 32), rms_norm(keys)
    position, context = rotary(keys, keys.size("max_position_embeddings", 2048), sizes.head_dim)
    bias, first = keys.flag("attention_bias", False), keys.take("max_window_layers", 62, (int,))
    fields = {"bias": bias, "output_bias": bias, "head_norm": config.HeadNorm(norm)}
    window = keys.size_or_none("sliding_window", 4096)
    default = [SLIDING if window and layer >= first else FULL for layer in range(sizes.layers)]
    router = sigmoid_router(keys, None, None, groups=1, kept=1, normalize=False)
    parts = dense_then_mixtures(keys, sizes.layers, router, gated(keys, 10944), hidden=1408, shared=None, first=0)
    blocks = [
        config.Block(norm, sizes.attention(position, window=window, **fields), part)
        for window, part in zip(windows(keys, sizes.layers, window, default), parts, strict=True)
    ]
    return decoder(keys, sizes, blocks, norm, context, vocab_size=152064, eos=None)
