"""Key-value caches: a pytree with one entry for each layer, which may be of different kinds.

All arrays of keys and values are [B K S ...], the layout that decoding reads.
"""

from jaxllm.cache.cache import BlockCache, Cache, LayerCaches, TokenCache
from jaxllm.cache.call import CacheSpec, CallContext, EncoderOutput, KVView
from jaxllm.cache.cross_attention import CrossAttentionCache, CrossKVCache
from jaxllm.cache.layer_cache import KV_AXES, KVCache, LayerCache, LogicalAxes
from jaxllm.cache.rotating import RotatingKVCache

__all__ = [
    "KV_AXES",
    "BlockCache",
    "Cache",
    "CacheSpec",
    "CallContext",
    "CrossAttentionCache",
    "CrossKVCache",
    "EncoderOutput",
    "KVCache",
    "KVView",
    "LayerCache",
    "LayerCaches",
    "LogicalAxes",
    "RotatingKVCache",
    "TokenCache",
]
