"""Qwen3's mixtures: normalised heads, and in every layer or some of them many small experts."""

from conversion.architectures.llama import ATTENTION, EMBEDDING, ENDS, FEED_FORWARD, IGNORED, NORMS
from conversion.architectures.qwen2_moe import EXPERTS, expert, router, sparse_layers
from conversion.architectures.qwen3 import HEAD_NORMS
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.sizes import Sizes, decoder, gated, rms_norm
from conversion.table import Table
from jaxllm import config

TABLE = Table(ENDS + NORMS + ATTENTION + HEAD_NORMS + FEED_FORWARD + EXPERTS, IGNORED, EMBEDDING)


def _window(keys: Keys) -> int | None:
    """The window of all layers, where `use_sliding_window` says so."""
    size = keys.size_or_none("sliding_window", 4096)
    if not keys.flag("use_sliding_window", False) or size is None:
        keys.take("max_window_layers", None)
        return None
    keys.neutral("max_window_layers", (0, None))  # the authors' windows begin at this layer, Transformers' do not
    return size


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `Qwen3MoeConfig`'s keys; defaults are Transformers'."""
    # Qwen3-Coder says these of what is no choice here.
    for name, value in {"qkv_bias": False, "use_qk_norm": True, "shared_expert_intermediate_size": 0}.items():
        keys.neutral(name, (value, None))
    sizes, norm = Sizes.of(keys, 2048, 24, 32, kv_heads=4), rms_norm(keys)
    position, context = rotary(keys, keys.size("max_position_embeddings", 32768), sizes.head_dim)
    bias = keys.flag("attention_bias", False)
    attention = sizes.attention(
        position, bias=bias, output_bias=bias, window=_window(keys), head_norm=config.HeadNorm(norm)
    )
    dense = gated(keys, 6144)
    mixture = config.Mixture(router(keys, 128, 8), expert(keys, dense, 768))
    blocks = [config.Block(norm, attention, mixture if s else dense) for s in sparse_layers(keys, sizes.layers)]
    return decoder(keys, sizes, blocks, norm, context, vocab_size=151936, eos=None)
