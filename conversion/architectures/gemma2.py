"""Gemma 2: a Gemma with norms around attention and feed-forward, bounded scores and logits, and windows by turns."""

from typing import Any

from conversion.activations import ACTIVATIONS
from conversion.architectures.gemma import causal_only, feed_forward
from conversion.architectures.llama import ATTENTION, EMBEDDING, ENDS, FEED_FORWARD, IGNORED
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.sizes import FULL, SLIDING, Sizes, decoder, rms_norm, windows
from conversion.table import Row, Table
from jaxllm import config

_LAYER, _THEIRS = "layers.{i}.", "model.layers.{i}."

NORMS_AROUND = (
    Row(_LAYER + "attention_norm.weight", _THEIRS + "input_layernorm.weight", "d -> d"),
    Row(_LAYER + "attention_output_norm.weight", _THEIRS + "post_attention_layernorm.weight", "d -> d"),
    Row(_LAYER + "feed_forward_norm.weight", _THEIRS + "pre_feedforward_layernorm.weight", "d -> d"),
    Row(_LAYER + "feed_forward_output_norm.weight", _THEIRS + "post_feedforward_layernorm.weight", "d -> d"),
)

TABLE = Table(ENDS + NORMS_AROUND + ATTENTION + FEED_FORWARD, IGNORED, EMBEDDING)


def attention_fields(keys: Keys) -> dict[str, Any]:
    """What Gemma 2 and 3 say of attention alike."""
    bias = keys.flag("attention_bias", False)
    return {"scale": keys.number("query_pre_attn_scalar", 256) ** -0.5, "bias": bias, "output_bias": bias}


def network(keys: Keys) -> config.FeedForward:
    """The feed-forward network that Gemma 2 and 3 spell alike."""
    return feed_forward(keys, 9216, "hidden_activation", "hidden_act", ACTIVATIONS)


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `Gemma2Config`'s keys; defaults are Transformers'."""
    causal_only(keys)
    sizes, norm = Sizes.of(keys, 2304, 26, 8, kv_heads=4, head_dim=256), rms_norm(keys, offset=1.0)
    position, context = rotary(keys, keys.size("max_position_embeddings", 8192), sizes.head_dim)
    fields = attention_fields(keys) | {"softcap": keys.number_or_none("attn_logit_softcapping", 50.0)}
    hidden, window = network(keys), keys.size_or_none("sliding_window", 4096)
    keys.neutral("sliding_window_size", (window, None))  # a repeat in the published files, which nobody reads
    blocks = [
        config.Block(norm, sizes.attention(position, window=each, **fields), hidden, "around")
        for each in windows(keys, sizes.layers, window, (SLIDING, FULL))
    ]
    return decoder(
        keys,
        sizes,
        blocks,
        norm,
        context,
        vocab_size=256000,
        tied=True,
        eos=1,
        embed_scale=sizes.dim**0.5,
        logit_softcap=keys.number_or_none("final_logit_softcapping", 30.0),
    )
