"""Work in a process of its own: one that hangs or dies takes nothing else along."""

import os
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import jax


class TrialError(Exception):
    """How a process ended that did not finish its work."""


def trial(work: Callable[..., Iterable[Any]], *arguments: Any, limit: float, quiet: bool = True) -> Iterator[Any]:
    """What `work` gives, an item at a time, from a new process, which is killed if one takes more than `limit` seconds.

    This process needs no device for it, and must not hold one that only one process at a time may have. `work` and
    its arguments are pickled; of a `quiet` process nothing is seen but its items.

    Raises:
        TrialError: the process hung, died, or raised an exception.
    """
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, quiet, work, arguments), daemon=True)
    process.start()
    sender.close()
    try:
        while True:
            if not receiver.poll(limit):
                raise TrialError(f"no answer in {limit:g} s")
            kind, item = receiver.recv()
            if kind == "end":
                return
            if kind == "error":
                raise TrialError(item)
            yield item
    except EOFError:
        process.join(10)
        raise TrialError(f"the process died ({_exit(process.exitcode)})") from None
    finally:
        process.kill()
        process.join(10)


def _work(sender: Connection, quiet: bool, work: Callable[..., Iterable[Any]], arguments: tuple[Any, ...]) -> None:
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
    except Exception as error:  # whatever a device may say
        sender.send(("error", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"))


def _exit(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
