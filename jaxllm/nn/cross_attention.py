"""Cross-attention: the queries of a decoder attend to the output of an encoder."""

import jax
import jax.numpy as jnp

from jaxllm.cache import CacheSpec, CallContext, CrossKVCache, EncoderOutput, KVView
from jaxllm.nn.attention import AttentionProjections


class CrossAttention(AttentionProjections):
    """Attention whose keys and values are projected from the encoder's output (Vaswani et al. 2017).

    The first call of a row gets the encoder's output and stores its keys and values in the cache; later calls read the
    cache.
    """

    def __call__(
        self, x: jax.Array, call: CallContext, cache: CrossKVCache | None = None
    ) -> tuple[jax.Array, CrossKVCache | None]:
        """Returns [B T D] for x [B T D], and the cache with the encoder's keys and values.

        Raises:
          ValueError: there is neither an encoder's output nor a cache.
        """
        if call.encoder is not None:
            view, cache = self._encoder_view(call.encoder, cache)
        elif cache is not None:
            view = cache.view()
        else:
            raise ValueError("cross-attention needs the encoder's output, or a cache of its keys and values")
        return self._attend(self._project_query(x), view), cache

    def new_cache(self, spec: CacheSpec) -> CrossKVCache:
        """Creates an empty cache for the keys and values of an encoder's output."""
        return CrossKVCache.new(self._empty_cache(spec, spec.encoder_capacity), jnp.zeros(spec.batch, jnp.int32))

    def _encoder_view(self, encoder: EncoderOutput, cache: CrossKVCache | None) -> tuple[KVView, CrossKVCache | None]:
        key, value = self._project_kv(encoder.states)
        key = self._replicate_kv_heads(key)
        value = self._replicate_kv_heads(value)
        if cache is not None:
            cache = cache.store(key, value, encoder.lengths)
        return KVView.from_call(key, value, encoder.lengths), cache
