"""Attention calls on which kernels are compared with the reference: shapes of published models, and edge cases."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.config import ALiBiConfig
from jaxllm.kernels.spec import AttentionInputs, AttentionSpec

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Case:
    """An attention call; `AttentionInputs` and `AttentionSpec` describe most of the fields.

    Attributes:
      value_dim: size of the values; None means `head_dim`.
      shared: whether the values are the first `value_dim` dimensions of the keys.
      stored: narrower dtype that keys and values are stored in.
      sharp: factor by which scores are spread further than those of random vectors.
    """

    name: str
    queries: int
    keys: int
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 128
    value_dim: int | None = None
    batch: int = 1
    causal: bool = True
    window: int | None = None
    chunk: int | None = None
    softcap: float | None = None
    alibi: ALiBiConfig | None = None
    shared: bool = False
    stored: str | None = None
    sinks: bool = False
    offsets: tuple[int, ...] | None = None
    lengths: tuple[int, ...] | None = None
    sharp: float = 1.0

    @property
    def spec(self) -> AttentionSpec:
        """The spec of the call."""
        scale = self.sharp / math.sqrt(self.head_dim)
        value_dim = None
        if self.shared:
            value_dim = self.value_dim
        return AttentionSpec(scale, self.causal, self.window, self.chunk, self.softcap, self.alibi, value_dim)

    def shapes(self, dtype: str) -> AttentionInputs:
        """Returns the shapes of the inputs."""
        stored = self.stored or dtype

        def of(kind: str, *shape: int) -> Any:
            return jax.ShapeDtypeStruct(shape, jnp.dtype(kind))

        keys = self.batch, self.kv_heads, self.keys
        scale = None
        if self.stored:
            scale = of("float32", *keys)
        return AttentionInputs(
            query=of(dtype, self.batch, self.queries, self.heads, self.head_dim),
            key=of(stored, *keys, self.head_dim),
            value=None if self.shared else of(stored, *keys, self.value_dim or self.head_dim),
            offsets=None if self.offsets is None else of("int32", self.batch),
            lengths=None if self.lengths is None else of("int32", self.batch),
            sinks=of(dtype, self.heads) if self.sinks else None,
            key_scale=scale,
            value_scale=scale,
            slopes=of("float32", self.heads) if self.alibi else None,
        )

    def inputs(self, dtype: str) -> AttentionInputs:
        """Returns the inputs as NumPy arrays, rounded to a dtype. They are the same at every call."""
        arrays: dict[str, Any] = self.shapes(dtype)._asdict()
        slopes = None
        if self.alibi:
            slopes = self.alibi.slopes
        given = {"offsets": self.offsets, "lengths": self.lengths, "slopes": slopes}
        for seed, (name, x) in enumerate(arrays.items()):
            if x is not None:
                arrays[name] = np.array(given[name], x.dtype) if name in given else _random_array(seed, x)
        return AttentionInputs(**arrays)


def _random_array(seed: int, x: Any) -> np.ndarray:
    """Returns normal numbers of a size that the dtype stores well; scales undo that size."""
    numbers = np.random.default_rng([seed, *x.shape]).standard_normal(x.shape, np.float32)
    if len(x.shape) == 3:
        return np.exp(numbers / 4) / 30
    return (30 * numbers.clip(-4, 4) if x.dtype.itemsize == 1 else numbers).astype(x.dtype)


def _slopes(heads: int, **how: Any) -> ALiBiConfig:
    return ALiBiConfig(tuple(2 ** (-8 * (head + 1) / heads) for head in range(heads)), **how)


def _prefill_case(name: str, heads: int, kv_heads: int, head_dim: int, length: int = 1100, **others: Any) -> Case:
    """A whole prompt, whose length is not a multiple of any block size."""
    return Case(name, length, length, heads, kv_heads, head_dim, **others)


def _decode_case(
    name: str, heads: int, kv_heads: int, head_dim: int, keys: int = 4096, offsets: tuple[int, ...] = (), **others: Any
) -> Case:
    """A decode step over a cache that is not full, unless `offsets` says so."""
    return Case(name, 1, keys, heads, kv_heads, head_dim, offsets=offsets or (keys - keys // 5,), **others)


def _rotating_case(
    name: str, heads: int, kv_heads: int, head_dim: int, keys: int, *lengths: int, **others: Any
) -> Case:
    """A decode step over a rotating cache, in which every key is visible."""
    rows = len(lengths)
    return Case(name, 1, keys, heads, kv_heads, head_dim, batch=rows, causal=False, lengths=lengths, **others)


EVERYTHING = Case(
    "every feature",
    *(600, 600, 8, 2, 128),
    batch=2,
    window=200,
    chunk=256,
    softcap=5.0,
    alibi=_slopes(8),
    sinks=True,
    offsets=(0, -9),
    lengths=(590, 600),
)
CASES = (
    _prefill_case("prefill, heads of 64 (GPT-2)", 12, 12, 64, 700),
    _prefill_case("prefill, 4 heads to a key, of 64 (Llama 3.2 1B)", 8, 2, 64),
    _prefill_case("prefill, heads of 80 (Phi-2)", 4, 4, 80),
    _prefill_case("prefill, heads of 96 (Phi-3)", 4, 4, 96),
    _prefill_case("prefill, 4 heads to a key, of 128 (Llama 3)", 32, 8, 128, 300),
    _prefill_case("prefill, 7 heads to a key, of 128 (Qwen2)", 7, 1, 128),
    _prefill_case("prefill, heads of 192 and values of 128 (DeepSeek)", 4, 4, 192, value_dim=128),
    _prefill_case("prefill, heads of 256, soft cap (Gemma 2)", 4, 2, 256, softcap=50.0, sharp=4.0),
    _prefill_case("prefill, window, soft cap (Gemma 2)", 4, 2, 256, softcap=50.0, window=512, sharp=4.0),
    _prefill_case("prefill, window (Mistral)", 8, 2, 128, window=300),
    _prefill_case("prefill, narrow window, sinks (gpt-oss)", 8, 1, 64, window=128, sinks=True),
    _prefill_case("prefill, window of one block and a bit", 4, 2, 128, window=129, batch=2, lengths=(1100, 130)),
    _prefill_case("prefill, chunks (Llama 4)", 5, 1, 128, chunk=256),
    _prefill_case("prefill, ALiBi (MPT)", 4, 4, 128, alibi=_slopes(4)),
    _prefill_case("prefill, scaled ALiBi (Bloom)", 4, 4, 64, alibi=_slopes(4, scale=0.125)),
    _prefill_case("prefill, ALiBi in bfloat16 (Falcon)", 4, 4, 64, alibi=_slopes(4, bfloat16=True)),
    _prefill_case("prefill, ragged rows", 4, 2, 128, 300, batch=4, offsets=(0, 5, -40, 290), lengths=(300, 1, 300, 0)),
    _prefill_case("prefill, almost all weight on few keys", 4, 2, 128, sharp=12.0),
    _prefill_case("not causal", 4, 2, 64, causal=False, batch=2, lengths=(1100, 77)),
    EVERYTHING,
    Case("part of a prompt", 300, 2100, 8, 2, batch=2, offsets=(1700, 3), lengths=(2000, 303)),
    Case("part of a prompt, window, sinks", 300, 2100, 8, 1, 64, window=128, sinks=True, offsets=(1700,)),
    Case("two queries, two keys", 2, 2),
    Case("one query, one key", 1, 1),
    Case("rows that see nothing", 130, 64, batch=3, offsets=(-200, 400, -3), lengths=(64, 0, 64), window=100),
    _decode_case("decode, 4 heads to a key (Llama 3)", 32, 8, 128),
    _decode_case(
        "decode, ragged rows", 32, 8, 128, 1500, batch=4, offsets=(1499, 0, 700, 9), lengths=(1500, 1, 650, 10)
    ),
    _decode_case("decode, one head to a key, of 64 (GPT-2)", 12, 12, 64, 1024),
    _decode_case("decode, heads of 80 (Phi-2)", 32, 32, 80, 1024),
    _decode_case("decode, heads of 96 (Phi-3)", 32, 32, 96, 1024),
    _decode_case("decode, 71 heads to a key (Falcon)", 71, 1, 64, 2000),
    _decode_case("decode, heads of 256, soft cap (Gemma 2)", 16, 8, 256, softcap=50.0, sharp=4.0),
    _decode_case("decode, window", 8, 2, 128, window=1000),
    _rotating_case("decode, ring cache", 8, 2, 128, 1024, 1024, 40),
    _rotating_case("decode, ring cache, sinks (gpt-oss)", 64, 8, 64, 128, 99, sinks=True),
    _decode_case("decode, ALiBi (MPT)", 4, 4, 128, alibi=_slopes(4)),
    _decode_case("decode, latents (DeepSeek)", 16, 1, 576, value_dim=512, shared=True),
    _decode_case("decode, past the last key", 8, 2, 128, 333, offsets=(900,)),
    _decode_case("decode, int8 cache", 8, 2, 128, stored="int8"),
    _decode_case("decode, float8 cache", 8, 2, 128, stored="float8_e4m3fn"),
    _decode_case("decode, latents in an int8 cache", 16, 1, 576, value_dim=512, shared=True, stored="int8"),
    _decode_case("decode, long cache", 8, 2, 128, 40000),
    Case("five queries, long cache", 5, 20000, 8, 2, offsets=(19000,)),
)
