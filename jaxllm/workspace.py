"""Directories and files that appear whole or not at all, whenever the process or the machine stops.

Work is done in a hidden directory beside the target, `.NAME.HOST.xxxxxxxx.partial`, which is renamed at the end. Its
writer holds a lock (flock) on it, which the kernel drops when the writer dies: an unlocked one was left behind, and the
next to work there removes it. Only on the host that the name tells, since locks may not be seen from another; where a
file system has none, nothing is removed.
"""

import fcntl
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jaxllm.errors import InputError

_SUFFIX = ".partial"


def require_vacant(target: Path) -> None:
    """Raises InputError where there is something at `target` already."""
    if os.path.lexists(os.path.abspath(target)):  # also a link that leads nowhere, and "new/.."
        raise InputError(f"{target}: exists already; remove it or choose another target")


@contextmanager
def written_beside(target: Path) -> Iterator[Path]:
    """A hidden directory beside the target that becomes the target at the end, or vanishes.

    It has reached the disk before it gets its name.

    Raises:
        InputError: the target exists, or cannot be written.
    """
    require_vacant(target)
    with _in_hiding(target) as work:
        yield work
        work.chmod(target.parent.stat().st_mode & 0o755)  # mkdtemp lets in nobody else
        _sync(work)
        work.rename(target)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A hidden file, to be written, that takes the place of the target at the end, or vanishes.

    It has reached the disk before it gets its name.

    Raises:
        InputError: the target cannot be written.
    """
    with _in_hiding(target) as work:
        yield work / target.name
        _sync(work)
        (work / target.name).rename(target)


@contextmanager
def _in_hiding(target: Path) -> Iterator[Path]:
    """A hidden directory beside a target, and a word on what cannot be written."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with hidden(target.parent, target.name) as work:
            yield work
            _sync_directory(target.parent)
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error}") from error


@contextmanager
def hidden(parent: Path, name: str) -> Iterator[Path]:
    """A new hidden directory that is removed at the end, or by the next to work there if the process is killed.

    Raises:
        OSError: it cannot be made.
    """
    _sweep(parent)
    work, lock = _locked_directory(parent, name)
    try:
        yield work
    finally:
        _remove(work)
        os.close(lock)


def _locked_directory(parent: Path, name: str) -> tuple[Path, int]:
    while True:
        work = Path(tempfile.mkdtemp(prefix=f".{name[:40]}.{socket.gethostname()}.", suffix=_SUFFIX, dir=parent))
        try:
            lock = os.open(work, os.O_RDONLY)
        except FileNotFoundError:
            continue  # swept before it could be locked
        if _lock(lock, work) is not False:
            return work, lock
        os.close(lock)


def _lock(descriptor: int, path: Path) -> bool | None:
    """Locks a directory; False where another has locked or removed it, None where that cannot be told."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError:
        return None


def _sweep(parent: Path) -> None:
    """Removes what killed processes of this host and user have left in a directory."""
    mark = f".{socket.gethostname()}."
    for path in parent.glob(f".*{_SUFFIX}"):
        if mark not in path.name:
            continue
        with suppress(OSError):  # gone, a link, or another's
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(lock).st_uid == os.geteuid() and _lock(lock, path):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)


def _sync(directory: Path) -> None:
    """Has the disk take all that is in a directory."""
    for root, _, files in os.walk(directory):
        for file in files:
            descriptor = os.open(os.path.join(root, file), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        _sync_directory(Path(root))


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with suppress(OSError):  # not every file system can
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(work: Path) -> None:
    """Removes a directory that threads of a failed write may still be adding to."""
    for _ in range(20):
        shutil.rmtree(work, ignore_errors=True)
        if not work.exists():
            return
        time.sleep(0.1)
