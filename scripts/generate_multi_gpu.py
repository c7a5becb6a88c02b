"""Text from a model that is spread over many devices: of one host, or of several.

One process for each host, or for each GPU, all with the same arguments. On one host with 8 GPUs; with 8 simulated
devices; on the hosts of a cluster that JAX detects; and on hosts that are told who they are:

python scripts/generate_multi_gpu.py --model path/to/model --mesh tensor=8
JAX_NUM_CPU_DEVICES=8 python scripts/generate_multi_gpu.py --mesh data=2,tensor=4
srun python scripts/generate_multi_gpu.py --model path/to/model --mesh data=2,tensor=8 --distributed
python scripts/generate_multi_gpu.py --model path/to/model --distributed --coordinator host0:9876 \
    --num-processes 2 --process-id 0  # ... and 1 on the other
"""

import argparse
import time
from collections import Counter
from collections.abc import Sequence

import jax

import jaxllm
from jaxllm.cli.common import add_job_arguments, job, parse_mesh
from jaxllm.paths import DEMO

PROMPTS = ["ROMEO:", "KING:\nMy lord", "First Citizen:", "To be, or not to be:"]


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description="Generate over many devices.")
    parser.add_argument("prompts", nargs="*", default=PROMPTS)
    parser.add_argument("--model", default=DEMO, help="a checkpoint directory or a hub repository")
    parser.add_argument("--dtype", help="float32, bfloat16 or float16 (default: the checkpoint's)")
    parser.add_argument("--mesh", default="tensor=-1", help="devices per axis (default: tensor=-1, all of them)")
    parser.add_argument("--max-new-tokens", type=int, default=40)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--debug", action="store_true", help="show the output of all processes")
    add_job_arguments(parser)
    return parser.parse_args(argv)


def main() -> None:
    arguments = parse_arguments()
    with job(arguments):
        run(arguments)


def run(arguments: argparse.Namespace) -> None:
    """The same in every process; what is printed comes from the first."""
    mesh = parse_mesh(arguments.mesh, jax.devices())
    model, tokenizer = jaxllm.load(arguments.model, mesh, arguments.dtype)
    bytes_per_device = Counter()
    for array in jax.tree.leaves(model):
        bytes_per_device.update({shard.device: shard.data.nbytes for shard in array.addressable_shards})
    megabytes = max(bytes_per_device.values()) / 1e6
    print(f"{jax.process_count()} processes, {mesh.size} devices, {megabytes:,.1f} MB of weights on each")
    start_time = time.perf_counter()
    options = {"temperature": arguments.temperature, "seed": arguments.seed}
    texts = jaxllm.generate(model, tokenizer, arguments.prompts, max_new_tokens=arguments.max_new_tokens, **options)
    for prompt, text in zip(arguments.prompts, texts, strict=True):
        print(f"\n{prompt}{text}")
    print(f"\n{len(texts)} texts in {time.perf_counter() - start_time:.1f} s, compilation included")


if __name__ == "__main__":
    main()
