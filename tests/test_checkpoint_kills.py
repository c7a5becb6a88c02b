"""Killed at any moment, a conversion leaves the old state or a whole checkpoint; what it leaves hidden is swept."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading

import pytest

from conversion import convert, forecast
from jaxllm import InputError, checkpoint
from jaxllm.atomic_write import atomic_directory, hidden_directory

FORKS = """if True:
    import json, os, signal, sys, time
    import conversion, jaxllm, orbax.checkpoint
    for line in sys.stdin:
        code, delay = json.loads(line)
        if not (child := os.fork()):
            exec(code)
            os._exit(0)
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def killed():
    """Runs code in a fork of a process that has imported all, for so many seconds at most; how it ended."""
    with subprocess.Popen([sys.executable, "-c", FORKS], stdin=-1, stdout=-1, text=True) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None

        def run(code: str, delay: float = 30) -> int:
            stdin.write(json.dumps([code, delay]) + "\n")
            stdin.flush()
            return int(stdout.readline())

        yield run
        stdin.close()


def test_killed_at_any_moment(killed, checkpoint_of, tmp_path):
    """SIGKILL at random times of the time that a whole conversion takes."""
    source, target = checkpoint_of("llama"), tmp_path / "native"
    code = f"conversion.convert({str(source)!r}, {str(target)!r})"
    generator, outcomes, span = random.Random(0), [], 0.5
    for _ in range(14):
        killed(code, generator.uniform(0, span))
        outcomes.append(target.exists())
        if target.exists():
            assert checkpoint.damaged(target) == []
            checkpoint.restore(target)
            shutil.rmtree(target)
        span *= 0.8 if outcomes[-1] else 1.25  # about half of them are to end before
    assert set(outcomes) == {True, False}
    convert(source, target)
    assert [path.name for path in tmp_path.iterdir()] == ["native"]
    assert checkpoint.damaged(target) == []


def test_only_what_nobody_holds_is_swept(tmp_path):
    host = socket.gethostname()
    dead, elsewhere = tmp_path / f".a.{host}.x.partial", tmp_path / ".a.elsewhere.x.partial"
    for path in (dead, elsewhere):
        (path / "arrays").mkdir(parents=True)
    (tmp_path / f".b.{host}.x.partial").symlink_to(elsewhere)
    (tmp_path / f".c.{host}.x.partial").write_text("not a directory")
    before = {path.name for path in tmp_path.iterdir()} - {dead.name}
    with hidden_directory(tmp_path, "live") as live:
        (live / "data").write_text("being written")
        with atomic_directory(tmp_path / "new") as work:
            assert {path.name for path in tmp_path.iterdir()} == before | {live.name, work.name}
        assert (live / "data").exists()
    assert {path.name for path in tmp_path.iterdir()} == before | {"new"}


def test_sweepers_do_not_hurt_each_other(tmp_path):
    """Many at once in one directory, each sweeping: all targets are whole, and nothing is left."""
    failures = []

    def work(number):
        try:
            for turn in range(8):
                with atomic_directory(tmp_path / f"{number}-{turn}") as path:
                    (path / "file").write_text("content")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(list(tmp_path.glob("*-*/file"))) == len(list(tmp_path.iterdir())) == 64


def test_without_locks_nothing_is_swept(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(38, os.strerror(38))

    monkeypatch.setattr("fcntl.flock", unsupported)
    left = tmp_path / f".a.{socket.gethostname()}.x.partial"
    left.mkdir()
    with atomic_directory(tmp_path / "new"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {left.name, "new"}


def test_interrupted_from_the_keyboard(checkpoint_of, tmp_path):
    """In the middle of the arrays, which Orbax has written in an event loop: it ends at once and leaves nothing."""
    program = """if True:
        import os, signal, sys, conversion, conversion.claim as claim
        read = claim._read
        def late(*arguments):
            os.kill(os.getpid(), signal.SIGINT)
            return read(*arguments)
        claim._read = late
        try:
            conversion.convert(*sys.argv[1:])
        except KeyboardInterrupt:
            sys.exit(3)
    """
    command = [sys.executable, "-c", program, str(checkpoint_of("llama")), str(tmp_path / "native")]
    assert subprocess.run(command, check=False).returncode == 3
    assert list(tmp_path.iterdir()) == []


def test_trials_are_swept_too(killed, checkpoint_of, tmp_path):
    """What a killed dry run leaves is a directory like any other."""
    source, target = checkpoint_of("llama"), tmp_path / "native"
    die = "sys.modules['conversion.forecast']._timed_write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)"
    assert killed(f"{die}; conversion.forecast({str(source)!r}, {str(target)!r})", 1) == -signal.SIGKILL
    assert len(list(tmp_path.glob(".probe.*"))) == 1
    forecast(source, target)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_read_only_directory(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot be written"), atomic_directory(tmp_path / "new"):
        pass
    tmp_path.chmod(0o700)


def test_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """All files and directories of it, and after that the name."""
    synced = []
    monkeypatch.setattr("os.fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    with atomic_directory(tmp_path / "new") as work:
        (work / "inner").mkdir()
        (work / "inner" / "file").write_text("content")
        monkeypatch.setattr(type(work), "rename", lambda old, new: (synced.append("renamed"), os.rename(old, new)))
    new = tmp_path / "new"
    inodes = [path.stat().st_ino for path in (new, new / "inner" / "file", new / "inner")]
    assert sorted(synced[:3]) == sorted(inodes)
    assert synced[3:] == ["renamed", tmp_path.stat().st_ino]
