"""Compare a checkpoint's logits and greedy tokens with PyTorch's.

examples:
  jaxllm verify path/to/hugging-face-model
  jaxllm verify path/to/model --layers                      one line per layer
  jaxllm verify path/to/model --json
  jaxllm verify path/to/native --checksums                  checks a native checkpoint for damage

Needs PyTorch: pip install "jaxllm[torch]". Exits with 1 if a bound is exceeded or a greedy token differs.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """Adds the arguments: the checkpoint, and how much to show."""
    verb.add_argument("words", nargs="?", metavar="MODEL", help="the checkpoint to compare (default: the demo model)")
    verb.add_argument("--model", help="the same")
    verb.add_argument("--revision", help="branch, tag or commit of a hub repository")
    verb.add_argument("--layers", action="store_true", help="also the difference after each layer but the last")
    verb.add_argument("--checksums", action="store_true", help="instead: check the data of a native checkpoint")
    verb.add_argument("--json", action="store_true", help="print the report as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Prints the report. Exits with 1 if anything is out of bounds."""
    from conversion.verify import verify
    from jaxllm.paths import DEMO

    model = arguments.model or arguments.words or DEMO
    if arguments.checksums:
        return _check_data(Path(model), arguments.json)
    report = verify(model, arguments.revision, layers=arguments.layers)
    if arguments.json:
        print(json.dumps({**dataclasses.asdict(report), "passed": report.passed}))
    else:
        report.print()
    if report.passed:
        return 0
    return 1


def _check_data(path: Path, as_json: bool) -> int:
    from jaxllm.checkpoint import damaged

    names = damaged(path)
    if as_json:
        print(json.dumps({"source": str(path), "damaged": names, "passed": not names}))
    else:
        for name in names:
            print(f"jaxllm: {name}: damaged", file=sys.stderr)
        print(f"jaxllm: {path}: {'FAILED' if names else 'every tensor is what was written'}", file=sys.stderr)
    if names:
        return 1
    return 0
