"""A common end for several processes: an error of one is reported once, and a lost process ends the others.

Each process holds a connection to process 0. The operating system closes it when a process ends, for whatever reason.
"""

import atexit
import ctypes
import json
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from contextlib import suppress
from typing import Any, BinaryIO, TextIO

from jaxllm.errors import InputError

_GRACE = 3.0  # seconds to find out whether an error occurred in every process, or follows from a lost one
_KEEPALIVE = {"TCP_KEEPIDLE": 4, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 4}  # detects a lost host as well
_EXIT_CODES = {BrokenPipeError: 0, InputError: 2, OSError: 2, KeyboardInterrupt: 130}  # otherwise 1, with a traceback
_handlers: list[Any] = []  # C keeps no reference to them


class Watchdog:
    """The connections between process 0 and the others.

    `store` is JAX's key-value store; `host` is the host of process 0.
    """

    def __init__(self, store: Any, process: int, count: int, host: str, stderr: TextIO):
        self._process = process
        self._count = count
        self._stderr = stderr
        self._ending = threading.Lock()
        self._files = {0: _leader(store, process, host)} if process else _followers(store, count)
        for other, file in self._files.items():
            threading.Thread(target=self._listen, args=(other, file), daemon=True).start()

    def send(self, **message: Any) -> None:
        """Sends a message to process 0, or from process 0 to all others."""
        for file in self._files.values():
            with suppress(OSError):
                file.write(json.dumps(message) + "\n")
                file.flush()

    def fail(self, error: BaseException) -> None:
        """Ends the job after an error in this process.

        Process 0 returns, to report the error. Another process waits for process 0 to end.
        """
        code = next((code for kind, code in _EXIT_CODES.items() if isinstance(error, kind)), 1)
        if self._process:
            trace = "".join(traceback.format_exception(error)).strip()
            self.send(error=trace if code == 1 else str(error) or type(error).__name__, code=code)
            time.sleep(10 * _GRACE)
            self._end(code)
        if code == 1:
            time.sleep(_GRACE)  # the error may follow from a process that is gone
        self._ending.acquire()
        self.send(end=code, message="")
        atexit.register(_exit_process, code)  # immediately: JAX would wait for the others

    def _listen(self, process: int, file: TextIO) -> None:
        name = f"process {process} (of {self._count})"
        with suppress(OSError):
            for message in map(json.loads, file):
                if "done" in message:
                    return
                if "end" in message:
                    self._end(message["end"], message["message"])
                timer = threading.Timer(_GRACE, self._end, (message["code"], f"{name}: {message['error']}"))
                timer.daemon = True
                timer.start()
        self._end(1, f"{name} is gone; stopping", everywhere=True)

    def _end(self, code: int, message: str = "", everywhere: bool = False) -> None:
        """Ends this process from any thread, and on process 0 the job; prints the reason everywhere or only here."""
        self._ending.acquire()  # never released: the process ends once
        if self._process == 0:
            self.send(end=code, message=message if everywhere else "")
        if message:
            print(f"jaxllm: {message}", file=self._stderr)
        _exit_process(code)


def _exit_process(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _followers(store: Any, count: int) -> dict[int, TextIO]:
    """Returns process 0's connections from all others, which get its address and a password from the store."""
    password = secrets.token_hex()
    files = {}
    with listening(0, count) as server:
        server.settimeout(60)
        store.key_value_set("jaxllm/watch", f"{server.getsockname()[1]} {password}")
        while len(files) < count - 1:
            file = _as_file(server.accept()[0])
            process, _, given = file.readline().strip().partition(" ")
            if secrets.compare_digest(given.encode(), password.encode()):
                files[int(process)] = file
    return files


def _leader(store: Any, process: int, host: str) -> TextIO:
    """Returns the connection of another process to process 0."""
    port, password = store.blocking_key_value_get("jaxllm/watch", 60_000).split()
    file = _as_file(socket.create_connection((host, int(port)), 60))
    file.write(f"{process} {password}\n")
    file.flush()
    return file


def _as_file(connection: socket.socket) -> TextIO:
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return connection.makefile("rw", errors="replace")


def listening(port: int, backlog: int = 1) -> socket.socket:
    """Returns a socket that listens on all interfaces; port 0 selects a free one."""
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    return socket.create_server(("", port), family=family, dualstack_ipv6=dual, backlog=backlog)


def host_of(address: str) -> str:
    """Returns the host of HOST:PORT."""
    return address.rpartition(":")[0].strip("[]")


def own_streams() -> TextIO:
    """Reserves stdout and stderr for Python, and returns stderr.

    The output of C++ code goes to a file, which is printed if the process aborts. Gloo prints a
    greeting on stdout, and JAX prints a long log when a process is gone.
    """
    log = tempfile.TemporaryFile()  # noqa: SIM115
    for number, name in ((1, "stdout"), (2, "stderr")):
        old = getattr(sys, name)
        old.flush()
        new = open(os.dup(number), "w", encoding=old.encoding, errors=old.errors, buffering=1)  # noqa: SIM115
        setattr(sys, name, new)
        os.dup2(log.fileno(), number)
    _explain_aborts(sys.stderr, log)
    return sys.stderr


def _explain_aborts(stderr: TextIO, log: BinaryIO) -> None:
    """Delays JAX's abort after the loss of process 0 until its reason is printed. Any other abort prints the log."""

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def explain(_: int) -> None:
        time.sleep(_GRACE)
        log.seek(0)
        stderr.write(log.read().decode(errors="replace"))
        _exit_process(1)

    _handlers.append(explain)
    ctypes.CDLL(None).signal(signal.SIGABRT, explain)
