"""Plan whether a model fits on some devices, on which mesh, and how fast it can be there.

examples:
  jaxllm plan llama-2-70b --devices 8 --memory 80GB --mesh tensor=8 --context 16000 --batch 1
  jaxllm plan mixtral-8x7b --devices 4 --chip a100          which mesh is recommended
  jaxllm plan path/to/model --dtype int4 --chip rtx4090 --json
  jaxllm plan --list                                        the models that are known by name

Nothing is loaded: a config is enough, and published models are known without a network.

Bytes are those of one device. int8 has a 16-bit scale for each row of a matrix, int4 one for each 32 weights. Norms and
biases stay in 16 bits, routers in 32, and the cache in the dtype of the computation. Tokens/s is the limit that memory
bandwidth sets for all rows together.
"""

import argparse
import dataclasses
import json
import math
import re
from typing import TYPE_CHECKING

from jaxllm.errors import InputError

if TYPE_CHECKING:
    from jaxllm.planning.chips import Chip
    from jaxllm.planning.mesh import MeshShape

_UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """Adds the arguments: a model, the devices, and the workload."""
    verb.add_argument("words", nargs="?", metavar="MODEL", help="a published model's name, a checkpoint, a repository")
    verb.add_argument("--model", help="the same")
    verb.add_argument("--revision", help="branch, tag or commit of a hub repository")
    verb.add_argument("--devices", type=int, help="how many there are (default: as many as the mesh has, or one)")
    verb.add_argument("--chip", help="what they are, as in h100, rtx4090 or tpu-v5e (default: h100)")
    verb.add_argument("--memory", metavar="SIZE", help="of each, as in 80GB (default: the chip's)")
    verb.add_argument("--bandwidth", metavar="SIZE", help="of each one's memory, a second, as in 3.35TB (the chip's)")
    verb.add_argument("--mesh", metavar="AXIS=N[,...]", help="devices per axis, as in tensor=8 (default: as advised)")
    verb.add_argument("--context", type=int, help="tokens of a row, prompt and all (4096; the model's own if less)")
    verb.add_argument("--batch", type=int, default=1, help="rows at a time (1)")
    verb.add_argument("--dtype", help="what the weights are stored as, int8 and int4 included (default: as they are)")
    verb.add_argument("--list", action="store_true", help="list the models that are known by name")
    verb.add_argument("--json", action="store_true", help="print it as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Prints the plan, or the list of known models."""
    if arguments.list:
        return _print_list(arguments.json)
    from conversion.describe import describe
    from jaxllm.paths import DEMO
    from jaxllm.planning import plan, print_plan

    name, config, dtype = describe(arguments.model or arguments.words or DEMO, arguments.revision)
    devices, mesh = _mesh(arguments)
    found = plan(
        name,
        config,
        _chip(arguments),
        devices=devices,
        mesh=mesh,
        context=arguments.context,
        batch=arguments.batch,
        dtype=arguments.dtype or str(dtype or "bfloat16"),
    )
    if arguments.json:
        print(json.dumps(dataclasses.asdict(found)))
    else:
        print_plan(found)
    return None


def _mesh(arguments: argparse.Namespace) -> "tuple[int, MeshShape | None]":
    """Returns the number of devices and the mesh, or None for the recommended one."""
    from jaxllm.cli.common import parse_extents
    from jaxllm.planning.mesh import MeshShape
    from jaxllm.sharding import axis_sizes

    if arguments.mesh in (None, "auto"):
        return 1 if arguments.devices is None else arguments.devices, None
    extents = parse_extents(arguments.mesh)
    devices = arguments.devices
    if devices is None:
        devices = math.prod(max(extent, 1) for extent in extents.values())
    return devices, MeshShape(axis_sizes(extents, devices))


def _chip(arguments: argparse.Namespace) -> "Chip":
    """Returns the devices' properties, with defaults for what is not given."""
    from jaxllm.planning.chips import DEFAULT_CHIP, chip

    said = {name: getattr(arguments, name) for name in ("memory", "bandwidth")}
    given = {name: _size(name, text) for name, text in said.items() if text is not None}
    assumed = " and ".join(name for name in said if name not in given)
    name = arguments.chip or (f"the {assumed} of an {DEFAULT_CHIP} assumed" if assumed else "as given")
    return dataclasses.replace(chip(arguments.chip or DEFAULT_CHIP), name=name, **given)


def _size(name: str, text: str) -> float:
    """Parses a number of bytes, or bytes per second, such as 80GB, 3.35 TB/s or 16GiB."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?i?)B?(?:/s)?\s*", text, re.ASCII | re.IGNORECASE)
    unit = "?"
    if found:
        unit = found[2].capitalize()
    if found is None or unit not in _UNITS or not (size := float(found[1]) * _UNITS[unit]):
        raise InputError(f"{name} {text!r}: must be a number of bytes, as in 80GB or 16GiB")
    return size


def _print_list(as_json: bool) -> None:
    from conversion.published import published

    if as_json:
        models = ({"name": m.name, "repo": m.repo, "parameters": m.parameters} for m in published())
        return print(json.dumps(list(models)))
    for model in published():
        print(f"{model.name:26}{model.parameters / 1e9:9,.2f} B  {model.repo or ''}")
    return None
