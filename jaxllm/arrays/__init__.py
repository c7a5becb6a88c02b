"""Named arrays in an Orbax store (OCDBT): written a few rows at a time, and read directly into their shards."""

from jaxllm.arrays.read import RestoreSpec, read_array, read_arrays, read_blocks, stored_arrays
from jaxllm.arrays.values import cast, checksum
from jaxllm.arrays.write import ArraySource, RowReader, require_room, write_arrays

__all__ = [
    "ArraySource",
    "RestoreSpec",
    "RowReader",
    "cast",
    "checksum",
    "read_array",
    "read_arrays",
    "read_blocks",
    "require_room",
    "stored_arrays",
    "write_arrays",
]
