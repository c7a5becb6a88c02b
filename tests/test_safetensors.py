"""No bytes make the reader of safetensors do anything but read them or say, in one line, what is wrong."""

import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from conversion.safetensor_files import read_safetensors
from jaxllm.errors import InputError

A = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
B = {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]}


def safetensors(header, data: bytes = bytes(32)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def read_all(content: bytes) -> None:
    """Reads the tensors of a file, or gets one line; never more bytes than the file has."""
    with tempfile.TemporaryDirectory() as directory:
        (file := Path(directory, "model.safetensors")).write_bytes(content)
        message, size = "", 0
        try:
            size = sum(tensor.read().nbytes for tensor in read_safetensors(file).values())
        except InputError as error:
            message = str(error)
    assert "\n" not in message
    assert size <= len(content)


VALID = safetensors({"__metadata__": {"format": "pt"}, "a": A, "b": B})
ODD = st.none() | st.booleans() | st.integers() | st.integers(-2, 40) | st.floats() | st.text(max_size=3)
VALUES = st.recursive(ODD, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner))
FIELDS = {
    "dtype": st.sampled_from(["F32", "BF16", "U8", "F64", "X"]) | VALUES,
    "shape": st.lists(st.integers(0, 5), max_size=3) | VALUES,
    "data_offsets": st.lists(st.integers(0, 40), min_size=2, max_size=2) | VALUES,
}
HEADERS = st.dictionaries(
    st.sampled_from("abc") | st.text(max_size=3), st.fixed_dictionaries(FIELDS) | VALUES, max_size=3
)
EDITS = st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), min_size=1, max_size=4)


@settings(max_examples=150, deadline=2000)
@given(st.binary(max_size=200))
def test_random_bytes(content):
    read_all(content)
    read_all(len(content).to_bytes(8, "little") + content)
    read_all(safetensors(b"{" + content))


@settings(max_examples=250, deadline=2000)
@given(EDITS)
def test_changed_bytes(edits):
    content = bytearray(VALID)
    for position, byte in edits:
        content[position] = byte
    read_all(bytes(content))


@settings(max_examples=250, deadline=2000)
@given(HEADERS | VALUES, st.integers(0, 40))
def test_random_headers(header, size):
    read_all(safetensors(header, bytes(size)))
