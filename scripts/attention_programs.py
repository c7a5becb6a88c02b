"""Calls of attention, and the programs that are timed on them."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxllm.kernels import flash_gpu, flash_tpu
from jaxllm.kernels.attention import KERNELS, Run
from jaxllm.kernels.blocks import BlockSizes
from jaxllm.kernels.blockwise import blockwise
from jaxllm.kernels.call import Device
from jaxllm.kernels.spec import AttentionInputs, AttentionSpec


@dataclass(frozen=True)
class Call:
    """Causal attention of the last `queries` of `keys` positions: all of them are a prefill, one is a decode step."""

    queries: int
    keys: int
    head_dim: int = 128
    window: int | None = None
    batch: int = 1
    heads: int = 32
    kv_heads: int = 8

    @property
    def name(self) -> str:
        """As it is printed."""
        window = ""
        if self.window:
            window = f", window {self.window}"
        kind = "decode"
        if self.queries != 1:
            kind = "prefill"
        return f"{kind} {self.keys}, batch {self.batch}, heads {self.heads}/{self.kv_heads} x {self.head_dim}{window}"

    def work(self, itemsize: int) -> tuple[float, str]:
        """Work of one call, in units of its rate: 1e12 operations or 1e9 bytes."""
        if self.queries == 1:
            return 2e-9 * self.batch * self.kv_heads * self.keys * self.head_dim * itemsize, "GB/s"
        width = self.window or self.keys
        pairs = width * self.keys - width * width / 2
        return 4e-12 * self.batch * self.heads * self.head_dim * pairs, "TFLOP/s"

    def arguments(self, dtype: str) -> tuple[jax.Array, ...]:
        """Returns a query [B T N H], key and value [B K S H] in the cache's layout, and offsets [B]."""
        stored = self.batch, self.kv_heads, self.keys, self.head_dim
        shapes = (self.batch, self.queries, self.heads, self.head_dim), stored, stored
        keys = jax.random.split(jax.random.key(0), 3)
        arrays = (jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True))
        return *arrays, jnp.full(self.batch, self.keys - self.queries, jnp.int32)


LONG = [Call(n, n, h, w) for n in (4096, 16384, 65536) for h in (64, 128) for w in (None, 4096) if w != n]
LONG += [Call(1, n, batch=b) for n in (8192, 65536) for b in (1, 8, 64)]
SMALL = [Call(512, 512, h, w, 1, 8, 2) for h, w in ((64, None), (128, None), (128, 128))]
SMALL += [Call(1, 2048, batch=b, heads=8, kv_heads=2) for b in (1, 4)]


class Implementation(NamedTuple):
    """A program of the arguments of a call that gives [B T N H], and whether it reads keys as caches store them."""

    program: Callable[[Call], Callable[..., jax.Array]]
    stored: bool = True


def ours(run: Run) -> Implementation:
    """Returns an implementation that runs one of this library's kernels."""

    def program(call: Call) -> Callable[..., jax.Array]:
        spec = AttentionSpec(call.head_dim**-0.5, window=call.window)

        def mixed(query: jax.Array, key: jax.Array, value: jax.Array, offsets: jax.Array) -> jax.Array:
            begun = None
            if call.queries == 1:
                begun = offsets
            return run(AttentionInputs(query, key, value, begun), spec).out

        return mixed

    return Implementation(program)


def theirs(implementation: Any) -> Implementation:
    """JAX's own function; keys [B S K H]."""

    def program(call: Call) -> Callable[..., jax.Array]:
        window = None
        if call.window is not None:
            window = (call.window - 1, 0)

        def mixed(query: jax.Array, key: jax.Array, value: jax.Array, offsets: jax.Array) -> jax.Array:
            options: dict[str, Any] = {"is_causal": True, "local_window_size": window}
            if call.queries == 1:
                options = {"key_value_seq_lengths": offsets + 1}
            return jax.nn.dot_product_attention(query, key, value, implementation=implementation, **options)

        return mixed

    return Implementation(program, stored=False)


def implementations() -> dict[str, Implementation]:
    """Returns the implementations to compare on the current device."""
    platform = Device.of(jax.devices()[0]).platform
    own = {name: kernel.run for name, kernel in KERNELS.items() if kernel.platform == platform and name != "cudnn"}
    all_ours = {name: ours(run) for name, run in (own | {"blockwise": blockwise}).items()}
    return all_ours | {"cuDNN": theirs("cudnn"), "XLA": theirs("xla")}


class Sweep(NamedTuple):
    """A kernel, the name and the type of its argument of tiles, and what to try for each of their fields."""

    run: Callable[..., Any]
    argument: str
    tiles: type
    options: dict[str, tuple[Any, ...]]

    def implementations(self) -> dict[str, Implementation]:
        """Returns one implementation for each combination of tile sizes."""
        for_each = (
            dict(zip(self.options, chosen, strict=True)) for chosen in itertools.product(*self.options.values())
        )
        return {
            " ".join(f"{name}={x}" for name, x in fields.items()): ours(
                partial(self.run, **{self.argument: self.tiles(**fields)})
            )
            for fields in for_each
        }


_GPU: dict[str, tuple[Any, ...]] = {"keys": (64, 128), "depth": (2, 3, 4), "warpgroups": (1, 2)}
_TPU: dict[str, tuple[Any, ...]] = {"rows": (256, 512, 1024), "keys": (512, 1024, 2048)}
SWEEPS = {
    "blockwise": Sweep(blockwise, "blocks", BlockSizes, {"queries": (128, 256, 512), "keys": (256, 512, 1024)}),
    "flash_gpu": Sweep(flash_gpu.flash_gpu, "tiles", flash_gpu.Tiles, _GPU),
    "flash_tpu": Sweep(flash_tpu.flash_tpu, "blocks", flash_tpu.TPUBlockSizes, _TPU),
}
