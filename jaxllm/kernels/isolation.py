"""Runs work in a process of its own, so that a hang or crash affects nothing else."""

import os
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import jax


class SubprocessError(Exception):
    """A process ended without finishing its work."""


def run_in_subprocess(
    work: Callable[..., Iterable[Any]], *arguments: Any, limit: float, quiet: bool = True
) -> Iterator[Any]:
    """Yields the items of `work` from a new process, which is killed if one item takes more than `limit` seconds.

    This process must not hold a device that only one process at a time can use. `work` and its arguments are pickled. A
    `quiet` process prints nothing.

    Raises:
      SubprocessError: the process hung, crashed, or raised an exception.
    """
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child_process, args=(sender, quiet, work, arguments), daemon=True)
    process.start()
    sender.close()
    try:
        while True:
            if not receiver.poll(limit):
                raise SubprocessError(f"no answer in {limit:g} s")
            kind, item = receiver.recv()
            if kind == "end":
                return
            if kind == "error":
                raise SubprocessError(item)
            yield item
    except EOFError:
        process.join(10)
        raise SubprocessError(f"the process died ({_describe_exit(process.exitcode)})") from None
    finally:
        process.kill()
        process.join(10)


def _child_process(
    sender: Connection, quiet: bool, work: Callable[..., Iterable[Any]], arguments: tuple[Any, ...]
) -> None:
    if quiet:
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # others may be using the device
    platforms = jax.config.values["jax_platforms"]
    if platforms and "cpu" not in platforms.split(","):  # references are computed there
        jax.config.update("jax_platforms", f"{platforms},cpu")
    try:
        for item in work(*arguments):
            sender.send(("item", item))
        sender.send(("end", None))
    except Exception as error:  # devices raise exceptions of any class
        sender.send(("error", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"))


def _describe_exit(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {-code}"
    return f"exit code {code}"
