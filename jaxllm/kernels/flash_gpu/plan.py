"""How a call is cut into blocks: by static shapes alone, so that a compiled program is right for any contents."""

from dataclasses import dataclass

import jax.numpy as jnp

from jaxllm.kernels.request import Device, Request

ROWS = 64  # query rows of a warpgroup: what one wgmma takes
PROCESSORS = 132  # multiprocessors of an H100 or H200
STARTING = 2  # blocks of keys in whose time a thread block begins and ends: a guess
REGISTERS = 65536  # of a multiprocessor
SHARED = 227 * 1024  # bytes of shared memory that a thread block may have


@dataclass(frozen=True)
class Tiles:
    """What may be tuned; None: chosen by the shapes.

    `keys` to a block, `depth` blocks of keys in flight, `warpgroups` that compute (each has 64 query rows), `splits`
    of the keys, and how many registers a thread that computes, or that copies, may have beside another such warpgroup.
    """

    keys: int | None = None
    depth: int | None = None
    warpgroups: int | None = None
    splits: int | None = None
    registers: tuple[int, int] = (240, 24)


@dataclass(frozen=True)
class Plan:
    """A cut call: see `plan`.

    Rows are queries of one head, or, where there are few queries, `pack` heads of one key's for each query. `blocks`
    of `warpgroups` times 64 rows cover them; `splits` thread blocks share the keys of one of these.
    """

    request: Request
    pack: int
    keys: int
    depth: int
    warpgroups: int
    splits: int
    registers: tuple[int, int] = (240, 24)

    @property
    def heads(self) -> int:
        """Heads that rows are of."""
        return self.request.heads // self.pack

    @property
    def rows(self) -> int:
        """Rows of a head that are queries'."""
        return self.request.queries * self.pack

    @property
    def block(self) -> int:
        """Rows of a thread block."""
        return ROWS * self.warpgroups

    @property
    def blocks(self) -> int:
        """Blocks of a head's rows."""
        return -(-self.rows // self.block)

    @property
    def stored(self) -> int:
        """Rows of a warpgroup that are stored: all, but for the only warpgroup of a few rows."""
        return min(ROWS, -(-self.rows // 8) * 8)

    @property
    def aliased(self) -> bool:
        """Whether outputs are staged where queries were."""
        return self.splits == 1 and self.request.value_dim == self.request.head_dim

    @property
    def out_dtype(self) -> jnp.dtype:
        """The outputs': parts of them are kept in float32 until they are combined."""
        return self.request.dtype if self.splits == 1 else jnp.dtype(jnp.float32)

    @property
    def shared(self) -> int:
        """Bytes of shared memory that are needed, barriers and the compiler's own aside."""
        head, value = self.request.head_dim, self.request.value_dim
        staged = 0 if self.aliased else self.block * value * self.out_dtype.itemsize
        return 2 * (self.block * head + self.depth * self.keys * (head + value)) + staged + 4 * self.block


def plan(request: Request, tiles: Tiles) -> Plan:
    """Packs the heads of a key where queries would not fill a block, and splits the keys to fill the processors.

    Raises:
        ValueError: tiles that would ask for more registers than there are.
    """
    pack = request.heads // request.kv_heads if request.queries < 2 * ROWS else 1
    rows, heads = request.queries * pack, request.heads // pack * request.batch
    largest = 64 if request.head_dim + request.value_dim > 256 else 128
    keys = tiles.keys or largest
    splits = tiles.splits or split(heads * -(-rows // ROWS), -(-request.keys // keys))
    both = heads * -(-rows // (2 * ROWS))
    warpgroups = tiles.warpgroups or (2 if splits == 1 and 2 * both > PROCESSORS else 1)
    warpgroups = min(warpgroups, -(-rows // ROWS))
    if warpgroups > 1 and sum(tiles.registers) + tiles.registers[0] > REGISTERS // 128 // 24 * 24:
        raise ValueError(f"registers {tiles.registers}: warpgroups would wait forever for more than there are")
    depth = tiles.depth or max(2, min(512 // (request.head_dim + request.value_dim), 4))
    return Plan(request, pack, keys, depth, warpgroups, splits, tiles.registers)


def split(blocks: int, key_blocks: int) -> int:
    """The fewest parts of the keys with which all blocks take the least time, one after another on the processors."""

    def time(splits: int) -> int:
        waves, share = -(-blocks * splits // PROCESSORS), -(-key_blocks // splits)
        return waves * (share + STARTING)

    return min(range(1, min(key_blocks, PROCESSORS) + 1), key=time)


def refusal(request: Request, device: Device) -> str | None:
    """Why the kernel cannot serve a request on a device (None: it can)."""
    if device.platform != "cuda":
        return f"platform {device.platform}: it is a kernel for CUDA"
    if not 9.0 <= device.capability < 10.0:
        return f"compute capability {device.capability}: only 9.x has the wgmma that it is made of"
    return unserved(request)


def unserved(request: Request) -> str | None:
    """Why the kernel cannot serve a request on any device (None: it can)."""
    scores = request.scores
    reasons = {
        f"{request.dtype}: it multiplies bfloat16 and float16": request.dtype not in (jnp.bfloat16, jnp.float16),
        "keys and values stored narrowly": request.quantized,
        "values that are parts of keys": request.shared_value,
        f"heads of {request.head_dim}: it takes multiples of 16 up to 256": not _fits(request.head_dim),
        f"values of {request.value_dim}: it takes multiples of 16 up to 256": not _fits(request.value_dim),
        "ALiBi rounded to bfloat16": scores.alibi is not None and scores.alibi.bfloat16,
        "a scale that is not positive": scores.scale <= 0,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _fits(size: int) -> bool:
    return size % 16 == 0 and 0 < size <= 256
