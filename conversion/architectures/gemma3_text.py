"""Gemma 3's language model: normalised heads, five layers with a window to one without, a rotary base for each kind."""

from conversion.architectures.gemma import causal_only
from conversion.architectures.gemma2 import NORMS_AROUND, attention_fields, network
from conversion.architectures.llama import ATTENTION, EMBEDDING, ENDS, FEED_FORWARD, IGNORED
from conversion.architectures.qwen3 import HEAD_NORMS
from conversion.keys import Keys
from conversion.rotary import rotary_by_layer_type
from conversion.sizes import FULL, SLIDING, Sizes, all_but_every, decoder, rms_norm, windows
from conversion.table import Table
from jaxllm import config

CLASS = "Gemma3ForCausalLM"
TABLE = Table(ENDS + NORMS_AROUND + ATTENTION + HEAD_NORMS + FEED_FORWARD, IGNORED, EMBEDDING)


def _windows(keys: Keys, layers: int) -> list[int | None]:
    """The window of each layer; `sliding_window_pattern` is the older spelling, and says which are without."""
    every = keys.size("sliding_window_pattern", 6)
    keys.neutral("_sliding_window_pattern", (None, every))
    default = all_but_every(layers, every)
    return windows(keys, layers, keys.size_or_none("sliding_window", 4096), default)


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `Gemma3TextConfig`'s keys; defaults are Transformers'."""
    causal_only(keys)
    keys.neutral("attn_logit_softcapping", (None,))  # Transformers reads it, and does nothing
    sizes, norm = Sizes.of(keys, 2304, 26, 8, kv_heads=4, head_dim=256), rms_norm(keys, offset=1.0)
    bases = {FULL: keys.number("rope_theta", 1e6), SLIDING: keys.number("rope_local_base_freq", 1e4)}
    context = keys.size("max_position_embeddings", 131072)  # with what scaling adds to it
    positions, _ = rotary_by_layer_type(keys, context, sizes.head_dim, bases)
    fields = attention_fields(keys) | {"head_norm": config.HeadNorm(norm)}
    hidden = network(keys)
    blocks = [
        config.Block(
            norm,
            sizes.attention(positions[SLIDING if window else FULL], window=window, **fields),
            hidden,
            "around",
        )
        for window in _windows(keys, sizes.layers)
    ]
    return decoder(
        keys,
        sizes,
        blocks,
        norm,
        context,
        vocab_size=262208,
        tied=True,
        eos=1,
        embed_scale=sizes.dim**0.5,
        logit_softcap=keys.number_or_none("final_logit_softcapping"),
    )
