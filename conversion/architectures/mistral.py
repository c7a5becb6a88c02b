"""Mistral 7B and its kin: a Llama whose attention may slide over a window."""

from conversion.architectures.llama import TABLE, decoder
from conversion.keys import Keys
from jaxllm import config

__all__ = ["TABLE", "from_hf"]


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `MistralConfig`'s keys; defaults are Transformers'."""
    for bias in ("attention_bias", "mlp_bias"):
        keys.neutral(bias, (False, None))
    window = keys.size_or_none("sliding_window", 4096)
    return decoder(keys, window=window, kv_heads=8, hidden=14336, max_length=131072)
