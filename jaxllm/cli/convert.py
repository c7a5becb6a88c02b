"""Convert a PyTorch checkpoint to a native one.

examples:
  jaxllm convert path/to/hugging-face-model path/to/native
  jaxllm convert mistral-7B-v0.1/ native/mistral --dtype bfloat16
  jaxllm convert owner/repo native/model --revision main
  jaxllm convert owner/repo --dry-run                       what would be done, from the config alone

An unsupported config is rejected before any weights are opened or downloaded.
"""

import argparse
import dataclasses
import json
import sys

from jaxllm.errors import InputError


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """Adds the arguments: source, target and dtype."""
    verb.add_argument("source", help="a Hugging Face, Mistral or Meta directory, or a hub repository")
    verb.add_argument("target", nargs="?", help="the directory to write; must not exist")
    verb.add_argument("--dtype", help="store every weight as this (default: as it comes)")
    verb.add_argument("--revision", help="branch, tag or commit of a hub repository")
    verb.add_argument("--dry-run", action="store_true", help="only say what would be written, and about how long")
    verb.add_argument("--json", action="store_true", help="print a summary as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Converts and prints a summary; or only describes what would be done."""
    if arguments.dry_run:
        _forecast(arguments)
    elif arguments.target is not None:
        _convert(arguments)
    else:
        raise InputError("no target: name the directory to write, or ask for a --dry-run")


def _convert(arguments: argparse.Namespace) -> None:
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


def _forecast(arguments: argparse.Namespace) -> None:
    from conversion import forecast

    found = forecast(arguments.source, arguments.target, arguments.dtype, arguments.revision)
    if arguments.json:
        print(json.dumps(dataclasses.asdict(found)))
    else:
        found.print()
