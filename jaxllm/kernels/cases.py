"""Calls of attention on which kernels are compared with the reference: shapes of published models, and the edges."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm import config
from jaxllm.kernels.inputs import Inputs, Scores

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Case:
    """A call: `Inputs` and `Scores` say what each field means.

    Values are of `value_dim` (None: of `head_dim`), or, `shared`, the first so many dimensions of keys. Keys and
    values may be `stored` in a narrower dtype. Scores are `sharp` times as far apart as those of random vectors are.
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
    alibi: config.Alibi | None = None
    shared: bool = False
    stored: str | None = None
    sinks: bool = False
    offsets: tuple[int, ...] | None = None
    lengths: tuple[int, ...] | None = None
    sharp: float = 1.0

    @property
    def scores(self) -> Scores:
        """How its scores are made."""
        scale, value_dim = self.sharp / math.sqrt(self.head_dim), self.value_dim if self.shared else None
        return Scores(scale, self.causal, self.window, self.chunk, self.softcap, self.alibi, value_dim)

    def shapes(self, dtype: str) -> Inputs:
        """What stands for its inputs before they are made."""
        stored = self.stored or dtype

        def of(kind: str, *shape: int) -> Any:
            return jax.ShapeDtypeStruct(shape, jnp.dtype(kind))

        keys = self.batch, self.keys, self.kv_heads
        scale = of("float32", *keys) if self.stored else None
        return Inputs(
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

    def inputs(self, dtype: str) -> Inputs:
        """Its inputs, NumPy's arrays: the same ones each time, rounded to a dtype."""
        arrays: dict[str, Any] = self.shapes(dtype)._asdict()
        slopes = self.alibi.slopes if self.alibi else None
        given = {"offsets": self.offsets, "lengths": self.lengths, "slopes": slopes}
        for seed, (name, x) in enumerate(arrays.items()):
            if x is not None:
                arrays[name] = np.array(given[name], x.dtype) if name in given else _drawn(seed, x)
        return Inputs(**arrays)


def _drawn(seed: int, x: Any) -> np.ndarray:
    """Normal numbers, of the size that their dtype stores well; scales are such that they undo that."""
    numbers = np.random.default_rng([seed, *x.shape]).standard_normal(x.shape, np.float32)
    if len(x.shape) == 3:
        return np.exp(numbers / 4) / 30
    return (30 * numbers.clip(-4, 4) if x.dtype.itemsize == 1 else numbers).astype(x.dtype)


def _slopes(heads: int, **how: Any) -> config.Alibi:
    return config.Alibi(tuple(2 ** (-8 * (head + 1) / heads) for head in range(heads)), **how)


def _whole(name: str, heads: int, kv_heads: int, head_dim: int, length: int = 1100, **others: Any) -> Case:
    """A prompt by itself, of a length that is a multiple of nothing."""
    return Case(name, length, length, heads, kv_heads, head_dim, **others)


def _step(
    name: str, heads: int, kv_heads: int, head_dim: int, keys: int = 4096, offsets: tuple[int, ...] = (), **others: Any
) -> Case:
    """A step of decoding, over a cache that is not full unless offsets say so."""
    return Case(name, 1, keys, heads, kv_heads, head_dim, offsets=offsets or (keys - keys // 5,), **others)


def _ring(name: str, heads: int, kv_heads: int, head_dim: int, keys: int, *lengths: int, **others: Any) -> Case:
    """A step of decoding over a ring: every key in it counts, in whatever order."""
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
    _whole("prefill, heads of 64 (GPT-2)", 12, 12, 64, 700),
    _whole("prefill, 4 heads to a key, of 64 (Llama 3.2 1B)", 8, 2, 64),
    _whole("prefill, heads of 80 (Phi-2)", 4, 4, 80),
    _whole("prefill, heads of 96 (Phi-3)", 4, 4, 96),
    _whole("prefill, 4 heads to a key, of 128 (Llama 3)", 32, 8, 128, 300),
    _whole("prefill, 7 heads to a key, of 128 (Qwen2)", 7, 1, 128),
    _whole("prefill, heads of 192 and values of 128 (DeepSeek)", 4, 4, 192, value_dim=128),
    _whole("prefill, heads of 256, soft cap (Gemma 2)", 4, 2, 256, softcap=50.0, sharp=4.0),
    _whole("prefill, window, soft cap (Gemma 2)", 4, 2, 256, softcap=50.0, window=512, sharp=4.0),
    _whole("prefill, window (Mistral)", 8, 2, 128, window=300),
    _whole("prefill, narrow window, sinks (gpt-oss)", 8, 1, 64, window=128, sinks=True),
    _whole("prefill, window of one block and a bit", 4, 2, 128, window=129, batch=2, lengths=(1100, 130)),
    _whole("prefill, chunks (Llama 4)", 5, 1, 128, chunk=256),
    _whole("prefill, ALiBi (MPT)", 4, 4, 128, alibi=_slopes(4)),
    _whole("prefill, scaled ALiBi (Bloom)", 4, 4, 64, alibi=_slopes(4, scale=0.125)),
    _whole("prefill, ALiBi in bfloat16 (Falcon)", 4, 4, 64, alibi=_slopes(4, bfloat16=True)),
    _whole("prefill, ragged rows", 4, 2, 128, 300, batch=4, offsets=(0, 5, -40, 290), lengths=(300, 1, 300, 0)),
    _whole("prefill, almost all weight on few keys", 4, 2, 128, sharp=12.0),
    _whole("not causal", 4, 2, 64, causal=False, batch=2, lengths=(1100, 77)),
    EVERYTHING,
    Case("part of a prompt", 300, 2100, 8, 2, batch=2, offsets=(1700, 3), lengths=(2000, 303)),
    Case("part of a prompt, window, sinks", 300, 2100, 8, 1, 64, window=128, sinks=True, offsets=(1700,)),
    Case("two queries, two keys", 2, 2),
    Case("one query, one key", 1, 1),
    Case("rows that see nothing", 130, 64, batch=3, offsets=(-200, 400, -3), lengths=(64, 0, 64), window=100),
    _step("decode, 4 heads to a key (Llama 3)", 32, 8, 128),
    _step("decode, ragged rows", 32, 8, 128, 1500, batch=4, offsets=(1499, 0, 700, 9), lengths=(1500, 1, 650, 10)),
    _step("decode, one head to a key, of 64 (GPT-2)", 12, 12, 64, 1024),
    _step("decode, heads of 80 (Phi-2)", 32, 32, 80, 1024),
    _step("decode, heads of 96 (Phi-3)", 32, 32, 96, 1024),
    _step("decode, 71 heads to a key (Falcon)", 71, 1, 64, 2000),
    _step("decode, heads of 256, soft cap (Gemma 2)", 16, 8, 256, softcap=50.0, sharp=4.0),
    _step("decode, window", 8, 2, 128, window=1000),
    _ring("decode, ring cache", 8, 2, 128, 1024, 1024, 40),
    _ring("decode, ring cache, sinks (gpt-oss)", 64, 8, 64, 128, 99, sinks=True),
    _step("decode, ALiBi (MPT)", 4, 4, 128, alibi=_slopes(4)),
    _step("decode, latents (DeepSeek)", 16, 1, 576, value_dim=512, shared=True),
    _step("decode, past the last key", 8, 2, 128, 333, offsets=(900,)),
    _step("decode, int8 cache", 8, 2, 128, stored="int8"),
    _step("decode, float8 cache", 8, 2, 128, stored="float8_e4m3fn"),
    _step("decode, latents in an int8 cache", 16, 1, 576, value_dim=512, shared=True, stored="int8"),
    _step("decode, long cache", 8, 2, 128, 40000),
    Case("five queries, long cache", 5, 20000, 8, 2, offsets=(19000,)),
)
