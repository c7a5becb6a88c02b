"""Memory does not grow with the checkpoint, and a process reads its own shards only: of some 190 MB, for real."""

import json
import os
import socket
import subprocess
import sys

import pytest

from jaxllm.arrays.chunks import chunk_shape
from scripts.bench_checkpoint import CONVERT, RESTORE, measured, write_source

CONFIG = {
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "num_hidden_layers": 2,
    "vocab_size": 8192,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("memory") / "source"
    return path, write_source(path, CONFIG, "float32")


@pytest.fixture(scope="module")
def native(source):
    """Converted where it is measured: far less than the weights may come on top of what was there before."""
    path, nbytes = source
    target = path.parent / "native"
    found = measured(CONVERT, path, target, "")
    assert found.peak - found.before < 0.35 * nbytes
    return target, nbytes


def test_converted_to_another_dtype(source, tmp_path):
    path, nbytes = source
    found = measured(CONVERT, path, tmp_path / "native", "float64")  # twice the bytes, each of them made anew
    assert found.peak - found.before < 2 * 0.6 * nbytes


def test_restored(native):
    """With blocks and budgets as small beside this model as they usually are: once the weights, and no copies."""
    path, nbytes = native
    small = "import jaxllm.arrays.read as read; read._BLOCK_BYTES = 1 << 21; read._AHEAD_BYTES = 1 << 23\n"
    found = measured(small + RESTORE, path, "fsdp=4,tensor=2")
    assert nbytes < found.peak - found.before < 1.25 * nbytes


SHARDS = """
import json, sys, jax, numpy as np
from pathlib import Path
jax.config.update("jax_num_cpu_devices", 4)
jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[3]))
import jaxllm
from jaxllm.checkpoint import read_stored, restore
from jaxllm.nn.parameter import named_parameters
def read_bytes():
    return int(Path("/proc/self/io").read_text().split()[1])
mesh, path = jaxllm.make_mesh(tensor=8), Path(sys.argv[1])
before = read_bytes()
model = restore(path, mesh)
after = read_bytes()
arrays = {name: parameter[...] for name, parameter in named_parameters(model)}
same = True
for name, array in arrays.items():
    whole = read_stored(path, name)
    same &= all(np.array_equal(shard.data, whole[shard.index]) for shard in array.addressable_shards)
print(json.dumps([after - before, bool(same), len(arrays["norm.weight"].addressable_shards)]))
"""


def test_each_process_reads_its_own_shards(native):
    """Two processes of four devices each, as on two hosts; together they read the checkpoint once."""
    path, nbytes = native
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = [sys.executable, "-c", SHARDS, str(path), address]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True, env=environment) for rank in range(2)
    ]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    for output in outputs:
        read, same, devices = json.loads(output)
        assert same
        assert devices == 4
        assert 0.5 * nbytes < read < 0.55 * nbytes


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((28672, 8192), ("hidden", "embed")),
        ((8192, 28672), ("embed", "hidden")),
        ((8192, 64, 128), ("embed", "heads", "head")),
        ((128256, 8192), ("vocab", "table")),
        ((50257, 1600), ("vocab", "table")),
        ((32003, 4096), ("vocab", "table")),
        ((256, 2048, 7168), ("experts", "hidden", "embed")),
        ((8192,), ("embed",)),
    ],
)
def test_chunks(shape, axes):
    """Of some megabytes, none padded, and whole ones in each share of sixteen where those are."""
    chunk = chunk_shape(shape, axes, 2)
    nbytes = 2
    for size, extent, axis in zip(shape, chunk, axes, strict=True):
        assert size % extent == 0
        if axis in ("hidden", "heads") and extent < size:
            assert (size // 16) % extent == 0 or "experts" in axes
        nbytes *= extent
    assert nbytes <= 1 << 23
    assert nbytes >= 1 << 19 or chunk == shape
