"""Arguments that several verbs share: the model, the devices, and generation options."""

import argparse
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from jaxllm.errors import InputError
from jaxllm.generation.options import GenerationOptions
from jaxllm.paths import DEMO, cache_dir

if TYPE_CHECKING:
    from jaxllm.models.decoder import Decoder
    from jaxllm.text import Tokenizer

JOB = {"coordinator": None, "num_processes": None, "process_id": None, "local_devices": None, "join_timeout": 120.0}


def add_model_arguments(verb: argparse.ArgumentParser) -> None:
    """Adds `--model` and the arguments that say where it runs."""
    verb.add_argument("--model", help="a checkpoint directory or a hub repository (default: the bundled demo model)")
    verb.add_argument("--revision", help="branch, tag or commit of a hub repository")
    verb.add_argument("--dtype", help="float32, bfloat16, float16 or float64 (default: the checkpoint's)")
    verb.add_argument(
        "--mesh",
        metavar="AXIS=N[,...]",
        help="devices per axis, as in tensor=8, or auto (default: one device; of several processes all, as tensor)",
    )
    verb.add_argument("--offload", action="store_true", help="keep layers in host memory: slow, but of any size")
    verb.add_argument("--device", help="the platform: cpu, cuda, rocm or tpu (default: the best there is)")


def add_job_arguments(verb: argparse.ArgumentParser) -> None:
    """Adds the arguments that make several processes, on one or more hosts, one job."""
    group = verb.add_argument_group("several processes, each started with the same arguments")
    group.add_argument(
        "--distributed", action="store_true", help="be one of them; SLURM, Open MPI, Kubernetes and TPUs are detected"
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="elsewhere: where process 0 is to listen")
    group.add_argument("--num-processes", type=int, metavar="N", help="... how many there are")
    group.add_argument("--process-id", type=int, metavar="I", help="... which of them this is, from 0")
    group.add_argument("--local-devices", metavar="I,...", help="this process's accelerators, by number")
    group.add_argument("--join-timeout", type=float, metavar="SECONDS", help="how long to wait for the others (120)")
    group.set_defaults(**JOB)


def job(arguments: argparse.Namespace) -> AbstractContextManager[None]:
    """Joins the job that the arguments describe, if any, and checks that all processes have the same arguments.

    Raises:
      InputError: there are arguments of a job without `--distributed`, or `--local-devices` are not numbers.
    """
    if not getattr(arguments, "distributed", False):
        for name, default in JOB.items():
            if getattr(arguments, name, default) != default:
                raise InputError(f"--{name.replace('_', '-')} needs --distributed")
        return nullcontext()
    from jaxllm.parallel import distributed

    given = {name: getattr(arguments, name) for name in JOB}
    local = given.pop("local_devices")
    timeout = given.pop("join_timeout")
    try:
        devices = None
        if local is not None:
            devices = [int(number) for number in local.split(",")]
    except ValueError:
        raise InputError(f"--local-devices {local!r}: write numbers, as in 0,1,2,3") from None
    alike = {name: value for name, value in vars(arguments).items() if name not in JOB}
    return distributed.job(**given, local_devices=devices, timeout=timeout, settings=alike, debug=arguments.debug)


def add_generation_arguments(verb: argparse.ArgumentParser) -> None:
    """Adds an argument for each of the `GenerationOptions` that has one, and `--stop`."""
    for option in fields(GenerationOptions):
        kind = option.metadata["type"]
        if kind is None:
            continue
        names = [f"--{option.name.replace('_', '-')}"]
        if option.metadata["short"] is not None:
            names.insert(0, option.metadata["short"])
        text = option.metadata["help"]
        if option.default is not None:
            text += f" ({option.default:g})"
        verb.add_argument(*names, type=kind, default=option.default, help=text)
    verb.add_argument(
        "--stop", action="append", default=[], help=r"a string that ends the text (\n for a line end); may be repeated"
    )


def generation_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the options as keyword arguments of `generate`."""
    options: dict[str, Any] = {
        option.name: getattr(arguments, option.name)
        for option in fields(GenerationOptions)
        if option.metadata["type"] is not None
    }
    options["stop"] = [text.replace(r"\n", "\n").replace(r"\t", "\t") for text in arguments.stop]
    return options


def load_model(arguments: argparse.Namespace) -> "tuple[Decoder, Tokenizer]":
    """Loads the model and tokenizer that the arguments name, with JAX's persistent compilation cache."""
    from jaxllm.pretrained import load

    if arguments.model is None:
        print(
            "jaxllm: no model named, using the bundled demo model (a small Llama, trained on Shakespeare)",
            file=sys.stderr,
        )
    keep_compiled_programs()
    devices = select_device(arguments.device)
    auto = arguments.mesh == "auto"
    text = arguments.mesh or ("tensor=-1" if getattr(arguments, "distributed", False) else None)
    model, tokenizer = load(
        arguments.model or DEMO,
        "auto" if auto else parse_mesh(text, devices),
        arguments.dtype,
        revision=arguments.revision,
        offload=arguments.offload,
    )
    if tokenizer is None:
        raise InputError(f"{arguments.model or DEMO}: has no tokenizer")
    return model, tokenizer


def keep_compiled_programs() -> None:
    """Enables JAX's persistent compilation cache, unless the user has set it or this is one of several processes.

    Only process 0 writes to that cache. It would skip compilations that processes without its disk perform, and GPUs
    tune programs jointly.
    """
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None and not jax.distributed.is_initialized():
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def select_device(name: str | None) -> list[Any]:
    """Selects the platform that JAX uses; returns its devices."""
    import jax

    if name is not None:
        jax.config.update("jax_platforms", name)
    try:
        return jax.devices()
    except RuntimeError as error:
        raise InputError(f"device {name or 'default'}: {str(error).splitlines()[0]}") from None


def parse_mesh(text: str | None, devices: list[Any]) -> Any:
    """Returns the mesh that `AXIS=N,...` describes; None, for the first device, without one."""
    from jaxllm.sharding import make_mesh

    if text is None:
        return None
    return make_mesh(**parse_extents(text), devices=devices)


def parse_extents(text: str) -> dict[str, int]:
    """Returns the axis sizes that `AXIS=N,...` names; `tensor` is 1 unless named."""
    from jaxllm.sharding import MESH_AXES

    extents = {"tensor": 1}
    for item in text.split(","):
        axis, _, size = item.partition("=")
        if axis not in MESH_AXES or not size.removeprefix("-").isdecimal():
            raise InputError(f"mesh {item!r}: write AXIS=N with an axis of {', '.join(MESH_AXES)}")
        extents[axis] = int(size)
    return extents
