"""Writes directories and files atomically: they appear complete or not at all, even if the process is killed.

Work is done in a hidden directory next to the target, `.NAME.HOST.xxxxxxxx.partial`, which is renamed at the end. Its
writer holds a lock (flock) on it, which the operating system releases when the writer dies. The next writer in the same
directory removes unlocked ones, but only those of its own host, since locks may not be visible from another host, and
only on file systems with locks.
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
    """Raises InputError if something exists at `target`."""
    if os.path.lexists(os.path.abspath(target)):  # also a link that leads nowhere, and "new/.."
        raise InputError(f"{target}: exists already; remove it or choose another target")


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Yields a hidden directory that is renamed to the target at the end, or removed after an error.

    Its contents are synced to disk before it is renamed.

    Raises:
      InputError: the target exists, or cannot be written.
    """
    require_vacant(target)
    with _hidden_sibling(target) as work:
        yield work
        work.chmod(target.parent.stat().st_mode & 0o755)  # mkdtemp lets in nobody else
        _sync(work)
        work.rename(target)


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yields a hidden file that replaces the target at the end, or is removed after an error.

    Its contents are synced to disk before it is renamed.

    Raises:
      InputError: the target cannot be written.
    """
    with _hidden_sibling(target) as work:
        yield work / target.name
        _sync(work)
        (work / target.name).rename(target)


@contextmanager
def _hidden_sibling(target: Path) -> Iterator[Path]:
    """Yields a hidden directory next to a target; raises InputError if it cannot be written."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with hidden_directory(target.parent, target.name) as work:
            yield work
            _sync_directory(target.parent)
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error}") from error


@contextmanager
def hidden_directory(parent: Path, name: str) -> Iterator[Path]:
    """Yields a new hidden directory that is removed at the end, or by the next writer if the process is killed.

    Raises:
      OSError: it cannot be created.
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
    """Locks a directory; returns False if another process has locked or removed it, None if that is unknown."""
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
    """Syncs everything in a directory to disk."""
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
    """Removes a directory to which threads of a failed write may still be adding."""
    for _ in range(20):
        shutil.rmtree(work, ignore_errors=True)
        if not work.exists():
            return
        time.sleep(0.1)
