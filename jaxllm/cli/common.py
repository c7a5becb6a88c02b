"""What the verbs that run a model share: where it comes from, where it goes, how it samples."""

import argparse
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from jaxllm.errors import InputError
from jaxllm.storage import DEMO, cache_dir

if TYPE_CHECKING:
    from jaxllm.models.decoder import Decoder
    from jaxllm.text import Tokenizer

JOB = {"coordinator": None, "num_processes": None, "process_id": None, "local_devices": None, "join_timeout": 120.0}
OPTIONS = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
OPTIONS += ("cache_dtype", "prefill_chunk_size")


def add_model_arguments(verb: argparse.ArgumentParser) -> None:
    """`--model` and where to run it."""
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
    """How several processes, on one host or many, become one job."""
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
    """The job that the arguments make this process a part of, if any; what all must have been given alike is checked.

    Raises:
        InputError: arguments of a job without `--distributed`, or devices that are no numbers.
    """
    if not getattr(arguments, "distributed", False):
        for name, default in JOB.items():
            if getattr(arguments, name, default) != default:
                raise InputError(f"--{name.replace('_', '-')} needs --distributed")
        return nullcontext()
    from jaxllm import distributed

    given = {name: getattr(arguments, name) for name in JOB}
    local, timeout = given.pop("local_devices"), given.pop("join_timeout")
    try:
        devices = None if local is None else [int(number) for number in local.split(",")]
    except ValueError:
        raise InputError(f"--local-devices {local!r}: write numbers, as in 0,1,2,3") from None
    alike = {name: value for name, value in vars(arguments).items() if name not in JOB}
    return distributed.job(**given, local_devices=devices, timeout=timeout, settings=alike, debug=arguments.debug)


def add_sampling_arguments(verb: argparse.ArgumentParser) -> None:
    """Sampling settings under Transformers' names."""
    verb.add_argument("-n", "--max-new-tokens", type=int, default=200, help="at most this many tokens (200)")
    verb.add_argument("-t", "--temperature", type=float, default=0.0, help="0 picks the likeliest token (0)")
    verb.add_argument("--top-k", type=int, help="sample among the k likeliest tokens")
    verb.add_argument("--top-p", type=float, help="sample among the likeliest tokens that make up p")
    verb.add_argument("--min-p", type=float, help="sample among tokens at least p times as likely as the likeliest")
    verb.add_argument("--repetition-penalty", type=float, help="above 1: tokens already there get less likely")
    verb.add_argument("--seed", type=int, help="the same seed gives the same text")
    verb.add_argument(
        "--stop", action="append", default=[], help=r"a string that ends the text (\n for a line end); may be repeated"
    )


def add_cache_arguments(verb: argparse.ArgumentParser) -> None:
    """How prompts are read, and what is kept of them."""
    verb.add_argument("--cache-dtype", help="int8 or fp8: keys and values in half the memory (default: the model's)")
    verb.add_argument(
        "--prefill-chunk-size", type=int, default=2048, metavar="N", help="read so many tokens at a time (2048)"
    )


def generation_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings as keyword arguments of `generate`."""
    stop = [text.replace(r"\n", "\n").replace(r"\t", "\t") for text in arguments.stop]
    return {name: getattr(arguments, name) for name in OPTIONS} | {"stop": stop}


def load_model(arguments: argparse.Namespace) -> "tuple[Decoder, Tokenizer]":
    """The model and tokenizer that the arguments name, with compiled programs kept from run to run."""
    from jaxllm.pretrained import load

    if arguments.model is None:
        print(
            "jaxllm: no model named, using the bundled demo model (a small Llama, trained on Shakespeare)",
            file=sys.stderr,
        )
    keep_compiled_programs()
    devices, auto = select_device(arguments.device), arguments.mesh == "auto"
    text = arguments.mesh or ("tensor=-1" if getattr(arguments, "distributed", False) else None)
    model, tokenizer = load(
        arguments.model or DEMO,
        None if auto else parse_mesh(text, devices),
        arguments.dtype,
        revision=arguments.revision,
        placement="auto" if auto else None,
        offload=arguments.offload,
    )
    if tokenizer is None:
        raise InputError(f"{arguments.model or DEMO}: has no tokenizer")
    return model, tokenizer


def keep_compiled_programs() -> None:
    """Turns on JAX's persistent compilation cache, unless the user has set it, or this is a process of several.

    Programs are written by process 0 alone, so that it would skip what others without its disk compile, and on GPUs
    they tune that together.
    """
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None and not jax.distributed.is_initialized():
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def select_device(name: str | None) -> list[Any]:
    """Makes a platform the one that JAX uses; its devices."""
    import jax

    if name is not None:
        jax.config.update("jax_platforms", name)
    try:
        return jax.devices()
    except RuntimeError as error:
        raise InputError(f"device {name or 'default'}: {str(error).splitlines()[0]}") from None


def parse_mesh(text: str | None, devices: list[Any]) -> Any:
    """A mesh from `AXIS=N,...`; None, for the first device alone, without one."""
    from jaxllm.sharding import make_mesh

    return None if text is None else make_mesh(**parse_extents(text), devices=devices)


def parse_extents(text: str) -> dict[str, int]:
    """The number of devices along each axis that `AXIS=N,...` names, and `tensor`, 1 unless named."""
    from jaxllm.sharding import MESH_AXES

    extents = {"tensor": 1}
    for item in text.split(","):
        axis, _, size = item.partition("=")
        if axis not in MESH_AXES or not size.removeprefix("-").isdecimal():
            raise InputError(f"mesh {item!r}: write AXIS=N with an axis of {', '.join(MESH_AXES)}")
        extents[axis] = int(size)
    return extents
