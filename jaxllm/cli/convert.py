"""Translate a PyTorch checkpoint into a native one.

examples:
  jaxllm convert path/to/hugging-face-model path/to/native
  jaxllm convert mistral-7B-v0.1/ native/mistral --dtype bfloat16
  jaxllm convert owner/repo native/model --revision main
"""

import argparse
import json
import sys


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """From where, to where."""
    verb.add_argument("source", help="a Hugging Face, Mistral or Meta directory, or a hub repository")
    verb.add_argument("target", help="the directory to write; must not exist")
    verb.add_argument("--dtype", help="store every weight as this (default: as it comes)")
    verb.add_argument("--revision", help="branch, tag or commit of a hub repository")
    verb.add_argument("--json", action="store_true", help="print the manifest's summary as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Converts, and says what came out."""
    from conversion import convert
    from jaxllm.checkpoint import read_manifest

    path = convert(arguments.source, arguments.target, arguments.dtype, revision=arguments.revision)
    manifest = read_manifest(path)
    summary = {key: manifest[key] for key in ("source", "layout", "dtype")}
    summary |= {"target": str(path), "tensors": len(manifest["checksums"])}
    if arguments.json:
        print(json.dumps(summary))
    else:
        print(
            f"jaxllm: {path}: {summary['tensors']} tensors, {summary['dtype']}, from {summary['layout']}",
            file=sys.stderr,
        )
