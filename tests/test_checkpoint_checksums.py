"""A flipped byte is found wherever something is read from it, and said in a line; what lies elsewhere is not read."""

import json
import random

import numpy as np
import orbax.checkpoint
import pytest
from orbax.checkpoint.experimental import v1 as ocp

from conversion import convert
from jaxllm import checkpoint
from jaxllm.arrays import checksum
from jaxllm.cli import main


@pytest.fixture
def native(checkpoint_of, tmp_path):
    return convert(checkpoint_of("llama"), tmp_path / "native")


def flipped(path, position, generator):
    """Flips a bit; the bytes that were there."""
    whole = path.read_bytes()
    change = bytes([whole[position] ^ 1 << generator.randrange(8)])
    path.write_bytes(whole[:position] + change + whole[position + 1 :])
    return whole


def tensors_in(native):
    """Where the data of each tensor lie that is not in the index: file, first byte, length."""
    contents = {path: path.read_bytes() for path in (native / "arrays").rglob("d/*")}
    for name in checkpoint.stored(native):
        data = checkpoint.read_stored(native, name).tobytes()
        for path, content in contents.items():
            if (start := content.find(data)) >= 0 and len(data) > 1024:
                yield name, path, start, len(data)


def test_flips_in_tensors_are_named(native):
    generator, places = random.Random(0), list(tensors_in(native))
    assert len(places) > 10
    for name, path, start, length in places:
        for _ in range(3):
            whole = flipped(path, start + generator.randrange(length), generator)
            assert checkpoint.damaged(native) == [name]
            path.write_bytes(whole)
    assert checkpoint.damaged(native) == []


def test_flips_elsewhere_are_told(native, capsys):
    """In the store's index, in Orbax's own files, in the config: exit code 1, and a line for each."""
    generator = random.Random(0)
    files = [path for path in native.rglob("*") if path.is_file() and path.parent.name != "d"]
    files += (native / "arrays" / "state" / "d").iterdir()
    for path in set(files) - {native / "manifest.json"}:
        for position in generator.choices(range(path.stat().st_size), k=5):
            whole = flipped(path, position, generator)
            assert main(["verify", str(native), "--checksums"]) == 1
            said = capsys.readouterr().err
            assert str(path.relative_to(native)) in said
            assert said.splitlines()[-1] == f"jaxllm: {native}: FAILED"
            path.write_bytes(whole)
    assert main(["verify", str(native), "--checksums"]) == 0


def test_nothing_reads_the_rest(native):
    """Earlier versions of the index lie between the data; without them all is read as before, by Orbax as well."""
    with orbax.checkpoint.PyTreeCheckpointer() as reader:
        before = reader.restore(native / "arrays" / "state")
    held = list(tensors_in(native))
    for path in (native / "arrays" / "state" / "ocdbt.process_0" / "d").iterdir():
        data = bytearray(path.stat().st_size)
        for _, where, start, length in held:
            if where == path:
                data[start : start + length] = path.read_bytes()[start : start + length]
        path.write_bytes(bytes(data))
    assert checkpoint.damaged(native) == []
    with orbax.checkpoint.PyTreeCheckpointer() as reader:
        after = reader.restore(native / "arrays" / "state")
    np.testing.assert_equal(after, before)


def test_compressed_arrays(tmp_path):
    """As Orbax stores them by itself: what cannot be decompressed is damaged, and the others are still checked."""
    values = {name: np.random.default_rng(0).standard_normal((64, 64), np.float32) for name in "abc"}
    checksums = {name: checksum([value]) for name, value in values.items()}
    (tmp_path / "manifest.json").write_text(
        json.dumps({"format": checkpoint.FORMAT, "files": {}, "dtype": "float32", "checksums": checksums})
    )
    ocp.partial.save(tmp_path / "arrays", values)
    ocp.partial.finalize(tmp_path / "arrays")
    assert checkpoint.damaged(tmp_path) == []
    generator, outcomes = random.Random(0), set()
    for path in (tmp_path / "arrays").rglob("d/*"):
        for _ in range(path.stat().st_size // 1000):
            whole = flipped(path, generator.randrange(len(path.read_bytes())), generator)
            outcomes.add(tuple(checkpoint.damaged(tmp_path)))
            path.write_bytes(whole)
    assert {("a",), ("b",), ("c",)} <= outcomes
