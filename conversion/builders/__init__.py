"""Builds parts of our configs from a Hugging Face config: what the architectures have in common."""

from conversion.builders.activations import ACTIVATIONS
from conversion.builders.alibi import bloom_slopes, mpt_slopes
from conversion.builders.decoder import cycle, decoder
from conversion.builders.feed_forward import gated_feed_forward
from conversion.builders.layer_types import FULL, SLIDING, full_attention_every, layer_types, windows, windows_from
from conversion.builders.norm import rms_norm
from conversion.builders.rotary import mscale_of, rotary, rotary_by_layer_type, temperature
from conversion.builders.sizes import Sizes
from conversion.config_reader import ConfigReader

__all__ = [
    "ACTIVATIONS",
    "FULL",
    "SLIDING",
    "ConfigReader",
    "Sizes",
    "bloom_slopes",
    "cycle",
    "decoder",
    "full_attention_every",
    "gated_feed_forward",
    "layer_types",
    "mpt_slopes",
    "mscale_of",
    "rms_norm",
    "rotary",
    "rotary_by_layer_type",
    "temperature",
    "windows",
    "windows_from",
]
