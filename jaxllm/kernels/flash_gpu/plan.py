"""How a call is divided into blocks: by static shapes only, so that a compiled program is correct for all contents."""

from dataclasses import dataclass

import jax.numpy as jnp

from jaxllm.kernels.call import AttentionCall, Device

ROWS = 64  # query rows of a warpgroup, the size of one wgmma
MULTIPROCESSORS = 132  # of an H100 or H200
OVERHEAD_BLOCKS = 2  # start and end of a thread block, in the time of key blocks: an estimate
REGISTERS = 65536  # of a multiprocessor
SHARED_BYTES = 227 * 1024  # bytes of shared memory that a thread block may have


@dataclass(frozen=True)
class Tiles:
    """Tile sizes that can be tuned; None means chosen by the shapes.

    Attributes:
      keys: number of keys of a block.
      depth: number of key blocks in flight.
      warpgroups: number of computing warpgroups, each with 64 query rows.
      splits: number of splits of the keys.
      registers: registers of a computing and of a copying thread, if there are two computing warpgroups.
    """

    keys: int | None = None
    depth: int | None = None
    warpgroups: int | None = None
    splits: int | None = None
    registers: tuple[int, int] = (240, 24)


@dataclass(frozen=True)
class LaunchPlan:
    """A call divided into blocks; see `plan_launch`.

    A row is a query of one head or, for few queries, of one of `pack` heads that share a key head. `blocks` blocks of
    `warpgroups` times 64 rows cover all rows. `splits` thread blocks share the keys of one of them.
    """

    call: AttentionCall
    pack: int
    keys: int
    depth: int
    warpgroups: int
    splits: int
    registers: tuple[int, int] = (240, 24)

    @property
    def heads(self) -> int:
        """Number of heads that rows are packed into."""
        return self.call.heads // self.pack

    @property
    def rows(self) -> int:
        """Number of rows of a head."""
        return self.call.queries * self.pack

    @property
    def block(self) -> int:
        """Number of rows of a thread block."""
        return ROWS * self.warpgroups

    @property
    def blocks(self) -> int:
        """Number of blocks of a head's rows."""
        return -(-self.rows // self.block)

    @property
    def stored(self) -> int:
        """Number of rows of a warpgroup that are stored: all, except for a single warpgroup with few rows."""
        return min(ROWS, -(-self.rows // 8) * 8)

    @property
    def reuses_query_memory(self) -> bool:
        """Whether outputs are staged in the memory of the queries."""
        return self.splits == 1 and self.call.value_dim == self.call.head_dim

    @property
    def out_dtype(self) -> jnp.dtype:
        """Dtype of the outputs; partial outputs stay float32 until they are merged."""
        if self.splits == 1:
            return self.call.dtype
        return jnp.dtype(jnp.float32)

    @property
    def shared(self) -> int:
        """Bytes of shared memory, without barriers and what the compiler adds."""
        head = self.call.head_dim
        value = self.call.value_dim
        staged = 0
        if not self.reuses_query_memory:
            staged = self.block * value * self.out_dtype.itemsize
        return 2 * (self.block * head + self.depth * self.keys * (head + value)) + staged + 4 * self.block


def plan_launch(call: AttentionCall, tiles: Tiles) -> LaunchPlan:
    """Divides a call into blocks.

    If the queries of a head do not fill a block, all heads of a key-value head share one. If there are fewer blocks
    than multiprocessors, the keys are split.

    Raises:
      ValueError: the tiles need more registers than there are.
    """
    pack = 1
    if call.queries < 2 * ROWS:
        pack = call.heads // call.kv_heads
    rows = call.queries * pack
    heads = call.heads // pack * call.batch
    largest = 64
    if call.head_dim + call.value_dim <= 256:
        largest = 128
    keys = tiles.keys or largest
    splits = tiles.splits or split(heads * -(-rows // ROWS), -(-call.keys // keys))
    both = heads * -(-rows // (2 * ROWS))
    warpgroups = tiles.warpgroups or (2 if splits == 1 and 2 * both > MULTIPROCESSORS else 1)
    warpgroups = min(warpgroups, -(-rows // ROWS))
    if warpgroups > 1 and sum(tiles.registers) + tiles.registers[0] > REGISTERS // 128 // 24 * 24:
        raise ValueError(f"registers {tiles.registers}: warpgroups would wait forever for more than there are")
    depth = tiles.depth or max(2, min(512 // (call.head_dim + call.value_dim), 4))
    return LaunchPlan(call, pack, keys, depth, warpgroups, splits, tiles.registers)


def split(blocks: int, key_blocks: int) -> int:
    """Returns the smallest number of splits of the keys for which all blocks finish earliest."""

    def time(splits: int) -> int:
        waves = -(-blocks * splits // MULTIPROCESSORS)
        share = -(-key_blocks // splits)
        return waves * (share + OVERHEAD_BLOCKS)

    return min(range(1, min(key_blocks, MULTIPROCESSORS) + 1), key=time)


def unsupported_reason(call: AttentionCall, device: Device) -> str | None:
    """Returns why the kernel cannot serve a call on a device; None if it can."""
    if device.platform != "cuda":
        return f"platform {device.platform}: it is a kernel for CUDA"
    if not 9.0 <= device.capability < 10.0:
        return f"compute capability {device.capability}: only 9.x has the wgmma that it is made of"
    return unsupported_call(call)


def unsupported_call(call: AttentionCall) -> str | None:
    """Returns why the kernel cannot serve a call on any device; None if it can."""
    alibi = call.spec.alibi
    if call.dtype not in (jnp.bfloat16, jnp.float16):
        return f"{call.dtype}: it multiplies bfloat16 and float16"
    if call.quantized:
        return "quantized keys and values"
    if call.shared_value:
        return "values that are parts of keys"
    if not _fits_in_registers(call.head_dim):
        return f"heads of {call.head_dim}: it takes multiples of 16 up to 256"
    if not _fits_in_registers(call.value_dim):
        return f"values of {call.value_dim}: it takes multiples of 16 up to 256"
    if alibi is not None and alibi.bfloat16:
        return "ALiBi rounded to bfloat16"
    if call.spec.scale <= 0:
        return "a scale that is not positive"
    return None


def _fits_in_registers(size: int) -> bool:
    return size % 16 == 0 and 0 < size <= 256
