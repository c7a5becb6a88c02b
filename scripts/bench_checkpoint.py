"""Memory and speed of converting and restoring checkpoints, of sizes that are asked for.

A random checkpoint is written to a temporary folder, converted, and restored on each mesh, every step in a process
of its own whose anonymous memory is sampled: what the kernel cannot drop, unlike the pages of a mapped file.

examples:
  python -m scripts.bench_checkpoint
  python -m scripts.bench_checkpoint --gigabytes 0.75 1.5 3 6 --meshes
  python -m scripts.bench_checkpoint --kind mixtral --dtype float32 --json
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from conversion import convert
from conversion.architectures import architecture
from conversion.files import Tensor
from conversion.keys import Keys
from conversion.safetensor_files import write_safetensors
from conversion.table import Binding, bind
from jaxllm.models.decoder import abstract

_LLAMA = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "num_hidden_layers": 2,
}
KINDS = {  # plain weights, fused and transposed ones, experts to be stacked
    "llama": _LLAMA,
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": 2048,
        "n_head": 16,
        "vocab_size": 50257,
        "n_layer": 2,
    },  # fused, transposed
    "mixtral": _LLAMA | {"model_type": "mixtral", "intermediate_size": 2048, "num_local_experts": 64},
}
MESHES = ("tensor=1", "tensor=8", "fsdp=4,tensor=2")
SHARD_BYTES = 2 * 10**9


def write_source(path: Path, kind: str, gigabytes: float, dtype: str) -> int:
    """A random checkpoint in shards of about that size; its bytes."""
    itemsize, config = np.dtype(dtype).itemsize, dict(KINDS[kind])
    layers = next(key for key in ("num_hidden_layers", "n_layer") if key in config)
    sizes = []
    for count in (1, 2):
        sizes.append(sum(map(_elements, _bindings(config | {layers: count}))) * itemsize)
    config[layers] = max(1, round((gigabytes * 1e9 - sizes[0]) / (sizes[1] - sizes[0])) + 1)
    block = np.random.default_rng(0).standard_normal(1 << 24, np.float32).astype(dtype)
    tensors = {
        name: Tensor(b.their_shape, block.dtype, lambda shape=b.their_shape: np.resize(block, shape), path)
        for b in _bindings(config)
        for name in b.theirs
    }
    shards: list[dict[str, Tensor]] = [{}]
    for name, tensor in tensors.items():
        if sum(held.nbytes for held in shards[-1].values()) > SHARD_BYTES:
            shards.append({})
        shards[-1][name] = tensor
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    files = {f"model-{i:05}-of-{len(shards):05}.safetensors": shard for i, shard in enumerate(shards, 1)}
    for file, shard in files.items():
        write_safetensors(path / file, shard, lambda count: None)
    weight_map = {name: file for file, shard in files.items() for name in shard}
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return sum(tensor.nbytes for tensor in tensors.values())


def _bindings(config: dict[str, Any]) -> list[Binding]:
    keys = Keys(config)
    module = architecture(keys.take("model_type"))
    return list(bind(module.TABLE.rows, abstract(module.from_hf(keys))))


def _elements(binding: Binding) -> int:
    return math.prod(binding.their_shape) * len(binding.theirs)


def convert_step(source: str, target: str, dtype: str | None) -> None:
    """Seconds to convert, on stdout."""
    began = time.perf_counter()
    convert(source, target, dtype)
    print(time.perf_counter() - began)


def restore_step(path: str, mesh: str) -> None:
    """Seconds to restore on a mesh, on stdout."""
    import jax

    axes = {name: int(extent) for name, extent in (axis.split("=") for axis in mesh.split(","))}
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", math.prod(axes.values()))
    import jaxllm
    from jaxllm.checkpoint import restore

    devices = jaxllm.make_mesh(fsdp=axes.get("fsdp", 1), tensor=axes.get("tensor", 1))
    began = time.perf_counter()
    model = restore(Path(path), devices)
    jax.block_until_ready(jax.tree.leaves(model))
    print(time.perf_counter() - began)


def measured(step: str, *arguments: Any) -> tuple[float, float]:
    """The seconds that a step says it took, and the peak of its process's anonymous memory in bytes."""
    program = f"import scripts.bench_checkpoint as bench; bench.{step}(*{arguments!r})"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    peak = 0
    while process.poll() is None:
        peak = max(peak, anonymous_bytes(process.pid))
        time.sleep(0.002)
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{step} failed")
    return float(output), peak


def anonymous_bytes(pid: int) -> int:
    """The anonymous memory of a process, 0 if it is gone (Linux only)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0)


def bench(arguments: argparse.Namespace, gigabytes: float) -> list[dict[str, Any]]:
    """One row for each step with a checkpoint of one size."""
    rows = []
    with tempfile.TemporaryDirectory(dir=arguments.dir) as work:
        source, native = Path(work) / "source", Path(work) / "native"
        nbytes = write_source(source, arguments.kind, gigabytes, arguments.dtype)
        seconds, peak = measured("convert_step", str(source), str(native), arguments.to)
        rows.append(_row("convert", nbytes, seconds, peak))
        shutil.rmtree(source)
        for mesh in arguments.meshes:
            seconds, peak = measured("restore_step", str(native), mesh)
            rows.append(_row(f"restore {mesh}", nbytes, seconds, peak))
    return rows


def _row(step: str, nbytes: int, seconds: float, peak: float) -> dict[str, Any]:
    return {"step": step, "checkpoint_bytes": nbytes, "seconds": round(seconds, 2), "peak_anonymous_bytes": int(peak)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1.5], help="sizes of the checkpoint")
    parser.add_argument("--kind", choices=KINDS, default="llama", help="what it is like (default: llama)")
    parser.add_argument("--dtype", default="bfloat16", help="of the weights (default: bfloat16)")
    parser.add_argument("--to", metavar="DTYPE", help="what to convert them to (default: as they come)")
    parser.add_argument("--meshes", nargs="*", default=MESHES, help=f"to restore on (default: {' '.join(MESHES)})")
    parser.add_argument("--dir", help="where to work (default: the system's temporary folder)")
    parser.add_argument("--json", action="store_true", help="print JSON, a line for each step")
    arguments = parser.parse_args()
    for gigabytes in arguments.gigabytes:
        for row in bench(arguments, gigabytes):
            if arguments.json:
                print(json.dumps(row), flush=True)
                continue
            nbytes, peak = row["checkpoint_bytes"], row["peak_anonymous_bytes"]
            print(
                f"{row['step']:24} {nbytes / 1e9:6.2f} GB   peak {peak / 1e9:5.2f} GB ({peak / nbytes:4.2f}x)   "
                f"{nbytes / 1e6 / row['seconds']:7,.0f} MB/s",
                flush=True,
            )


if __name__ == "__main__":
    main()
