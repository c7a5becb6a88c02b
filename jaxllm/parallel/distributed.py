"""Several processes as one program: each runs it on its own devices, and process 0 prints for all.

`jax.distributed` connects the processes and provides a key-value store. This module adds agreement on the settings, a
single output, and a common end (`jaxllm.parallel.watchdog`).
"""

import itertools
import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO, TypeVar

import jax
from jax._src.distributed import global_state  # JAX has no public name for the store

from jaxllm.checks import real_number, whole_number
from jaxllm.errors import InputError
from jaxllm.parallel.watchdog import Watchdog, host_of, listening, own_streams

T = TypeVar("T")

_FOREVER_MS = 10**9
_QUIET_SECONDS = 5  # before a message says that it is waiting
_numbers = itertools.count()  # number of keys used; the same in every process


@contextmanager
def job(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    local_devices: Sequence[int] | None = None,
    timeout: float = 120,
    settings: Mapping[str, Any] | None = None,
    debug: bool = False,
) -> Iterator[None]:
    """Makes this process part of a job. Must be called before JAX is used, and lasts until the program ends.

    Process 0 prints for all; the output of the others is discarded. When one process fails, all end. When one is gone,
    each of the others says so and exits with code 1.

    Args:
      coordinator: HOST:PORT on which process 0 listens. JAX detects it, like the next two, under SLURM, Open MPI,
        Kubernetes and on TPU slices.
      num_processes: number of processes.
      process_id: number of this process.
      local_devices: numbers of the accelerators that this process uses.
      timeout: seconds to wait for the other processes.
      settings: JSON values that must be the same in all processes.
      debug: whether to leave all output unchanged, including JAX's log.

    Raises:
      InputError: the arguments do not describe a job, or `settings` differ from those of process 0.
    """
    _check(coordinator, num_processes, process_id)
    timeout = real_number("timeout", timeout, min_value=1)
    stderr = sys.stderr if debug else own_streams()
    _join(coordinator, timeout, stderr, num_processes, process_id, local_devices)
    process = global_state.process_id
    leader = host_of(global_state.coordinator_address or "")
    watch = Watchdog(_store(), process, global_state.num_processes, leader, stderr)
    if process and not debug:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    try:
        require_same(
            "settings", {"jax": jax.__version__, "x64": jax.config.values["jax_enable_x64"], **(settings or {})}
        )
        yield
    except BaseException as error:
        watch.fail(error)
        raise
    watch.send(done=True)
    jax.distributed.shutdown()


def broadcast(make: Callable[[], T]) -> T:
    """Returns the JSON value that `make` returns on process 0, the only one that calls it."""
    if not jax.distributed.is_initialized():
        return make()
    store = _store()
    key = f"jaxllm/broadcast/{next(_numbers)}"
    if global_state.process_id:
        return json.loads(store.blocking_key_value_get(key, _FOREVER_MS))
    value = make()
    store.key_value_set(key, json.dumps(value))
    return value


def require_same(what: str, facts: Mapping[str, Any]) -> None:
    """Raises InputError on a process whose facts, JSON values by name, differ from those of process 0."""
    here = json.loads(json.dumps(facts, default=str))
    there = broadcast(lambda: here)
    for name in here | there:
        if here.get(name) != there.get(name):
            raise InputError(f"{what}: {name} is {here.get(name)!r}, but {there.get(name)!r} on process 0")


def leader_first(work: Callable[[], T]) -> T:
    """Runs work that writes files on process 0 first, then on the first process of every other host, then elsewhere."""
    if not jax.distributed.is_initialized():
        return work()
    store = _store()
    key = f"jaxllm/turn/{next(_numbers)}"
    me = global_state.process_id
    store.key_value_set(f"{key}/{me}", socket.gethostname())
    hosts = [store.blocking_key_value_get(f"{key}/{i}", _FOREVER_MS) for i in range(global_state.num_processes)]
    earlier = (me > 0) + (hosts.index(hosts[me]) < me)
    for turn in range(earlier):
        store.wait_at_barrier(f"{key}/{turn}", _FOREVER_MS)
    result = work()
    for turn in range(earlier, 2):
        store.wait_at_barrier(f"{key}/{turn}", _FOREVER_MS)
    return result


def _store() -> Any:
    return global_state.client


def _check(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise InputError(f"{missing[0]} is missing: coordinator, num_processes and process_id go together")
    if coordinator is not None:
        port = coordinator.rpartition(":")[2]
        if not host_of(coordinator) or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise InputError(f"coordinator {coordinator!r}: write HOST:PORT")
        count = whole_number("num_processes", num_processes, min_value=1)
        if whole_number("process_id", process_id, min_value=0, max_value=count - 1) == 0:
            try:
                listening(int(port)).close()  # JAX 0.12 does not survive a port in use
            except OSError as error:
                why = os.strerror(error.errno or 0)
                raise InputError(f"coordinator {coordinator}: cannot listen there: {why}") from None


def _join(address: str | None, timeout: float, stderr: TextIO, *given: Any) -> None:
    """Calls `jax.distributed.initialize`, says when it takes long, and turns its abort into an InputError."""
    joined = threading.Event()
    where = address or "the coordinator of this cluster"

    def wait() -> None:
        quiet = min(_QUIET_SECONDS, timeout)
        if joined.wait(quiet):
            return
        print(f"jaxllm: waiting for all processes to meet at {where}", file=stderr, flush=True)
        if not joined.wait(timeout - quiet):
            print(f"jaxllm: not all processes met at {where} within {timeout:g} s", file=stderr, flush=True)
            os._exit(2)

    threading.Thread(target=wait, daemon=True).start()
    jax.config.update("jax_enable_preemption_service", False)  # it would treat SIGTERM as advice only
    try:
        jax.distributed.initialize(address, *given, initialization_timeout=int(timeout) + 60)
    except Exception as error:  # JAX's cluster detection raises exceptions of any class
        told = " ".join(str(error).split())[:300]
        if address is None and isinstance(error, ValueError):
            told = "no SLURM, Open MPI, Kubernetes or TPU slice found: give coordinator, num_processes and process_id"
        raise InputError(told) from None
    finally:
        joined.set()
