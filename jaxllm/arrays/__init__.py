"""Named arrays in an Orbax store (OCDBT): written a few rows at a time, read straight into their shards."""

from jaxllm.arrays.read import Wanted, read_array, read_arrays, read_blocks, stored_arrays
from jaxllm.arrays.values import cast, checksum
from jaxllm.arrays.write import Array, Rows, require_room, write_arrays

__all__ = [
    "Array",
    "Rows",
    "Wanted",
    "cast",
    "checksum",
    "read_array",
    "read_arrays",
    "read_blocks",
    "require_room",
    "stored_arrays",
    "write_arrays",
]
