"""The whole journey in one file: convert a PyTorch checkpoint, restore it onto a mesh, and stream text from it.

python scripts/quickstart.py                                         # the demo model on one device
JAX_NUM_CPU_DEVICES=8 python scripts/quickstart.py --tensor 8        # ... on eight simulated ones
python scripts/quickstart.py --source path/to/model --prompt "Once upon a time"
"""

import argparse
import tempfile
from pathlib import Path

import conversion
import jaxllm


def main() -> None:
    parser = argparse.ArgumentParser(description="Convert, shard, generate.")
    parser.add_argument("--source", default=Path(jaxllm.__file__).parent / "demo", help="a PyTorch checkpoint")
    parser.add_argument("--prompt", default="ROMEO:")
    parser.add_argument("--tensor", type=int, default=1, help="over how many devices")
    parser.add_argument("--max-new-tokens", type=int, default=100)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as directory:
        native = conversion.convert(arguments.source, Path(directory) / "native")
        model, tokenizer = jaxllm.load(native, mesh=jaxllm.make_mesh(tensor=arguments.tensor))
    weight = model.layers[0].attention.query.weight[...]
    shard_shape = weight.addressable_shards[0].data.shape
    print(f"{weight.shape} query weights, as {shard_shape} on each of {len(weight.devices())} devices")
    for piece in jaxllm.stream_generate(
        model, tokenizer, arguments.prompt, max_new_tokens=arguments.max_new_tokens, temperature=0.8, seed=0
    ):
        print(piece.text, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
