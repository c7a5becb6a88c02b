"""Write a checkpoint in Hugging Face's layout.

examples:
  jaxllm export path/to/native path/to/hugging-face-model
  jaxllm export native/mistral exported --max-shard-size 2GB
  jaxllm export llama-2-7b/ llama-2-7b-hf/                   Meta's files, converted first

The tensors are bit for bit those that the checkpoint was converted from, unless it was converted to another dtype.
"""

import argparse
import json
import sys


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """Adds the arguments: source and target."""
    verb.add_argument("source", help="a native checkpoint, or whatever convert takes, which is then converted first")
    verb.add_argument("target", help="the directory to write; must not exist")
    verb.add_argument("--max-shard-size", default="5GB", metavar="SIZE", help="of one file of weights (5GB)")
    verb.add_argument("--revision", help="branch, tag or commit of a hub repository")
    verb.add_argument("--json", action="store_true", help="print a summary as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Exports and prints a summary."""
    from pathlib import Path

    from conversion.export import export, nbytes_of
    from jaxllm.atomic_write import require_vacant
    from jaxllm.pretrained import native_checkpoint

    most = nbytes_of(arguments.max_shard_size)
    require_vacant(Path(arguments.target))  # before anything is converted
    native = native_checkpoint(arguments.source, arguments.revision)
    path = export(native, arguments.target, most)
    files = sorted(path.glob("*.safetensors"))
    summary = {"source": arguments.source, "target": str(path), "files": len(files)}
    summary |= {"bytes": sum(file.stat().st_size for file in files)}
    if arguments.json:
        print(json.dumps(summary))
    else:
        print(f"jaxllm: {path}: {len(files)} safetensors, {summary['bytes'] / 1e6:,.1f} MB", file=sys.stderr)
