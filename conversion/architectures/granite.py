"""Granite 3: a Llama with multipliers on the embedding, the attention scores, what blocks add, and the logits."""

from conversion.architectures.llama import TABLE
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.sizes import Sizes, decoder, gated, rms_norm
from jaxllm import config

__all__ = ["TABLE", "decoder_of", "from_hf"]


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `GraniteConfig`'s keys; defaults are Transformers'."""
    return decoder_of(keys, gated(keys, 11008, bias=keys.flag("mlp_bias", False)))


def decoder_of(keys: Keys, feed_forward: config.FeedForward | config.Mixture) -> config.Decoder:
    """The model with the given feed-forward part, which is all that Granite's mixtures differ in."""
    names = ("embedding_multiplier", "residual_multiplier", "logits_scaling")
    embed, residual, logits = (float(keys.number(name, 1.0)) for name in names)
    scale = keys.number_or_none("attention_multiplier", 1.0)
    sizes, norm = Sizes.of(keys), rms_norm(keys)
    position, context = rotary(keys, keys.size("max_position_embeddings", 2048), sizes.head_dim)
    bias = keys.flag("attention_bias", False)
    scale = float(scale or sizes.head_dim**-0.5)  # null leaves it to PyTorch
    attention = sizes.attention(position, scale=scale, bias=bias, output_bias=bias)
    block = config.Block(norm, attention, feed_forward, residual_scale=residual)
    return decoder(
        keys, sizes, [block], norm, context, vocab_size=32000, eos=2, embed_scale=embed, logit_scale=1 / logits
    )
