"""What the README and docs print is run: every Python block, and every line of every sh block that calls jaxllm."""

import io
import os
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from conversion.architectures import names
from jaxllm.cli import main
from tests import tiny

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[tuple[str, str]]:
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [(path.name, block) for path in DOCUMENTS for block in pattern.findall(path.read_text("utf-8"))]


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A place that looks like the repository's root, for what the commands write."""
    (tmp_path / "jaxllm").symlink_to(ROOT / "jaxllm")
    monkeypatch.chdir(tmp_path)


def test_python_blocks(clone, capsys):
    namespace: dict[str, dict] = {}
    for document, block in blocks("python"):
        exec(compile(block, document, "exec"), namespace.setdefault(document, {}))
    assert len(namespace["README.md"]["texts"]) == 2
    assert len(namespace["README.md"]["ids"][0]) == 8


@pytest.mark.torch
def test_commands(clone, capsys, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    commands = [line for _, block in blocks("sh") for line in block.splitlines() if "jaxllm " in line]
    assert len(commands) >= 9
    for line in commands:
        monkeypatch.setattr(sys, "stdin", io.StringIO(""))
        for part in line.split("&&"):
            run(part.strip(), monkeypatch)
    assert capsys.readouterr().out


def run(command: str, monkeypatch) -> None:
    """One command, in this process; an `echo ... |` before it becomes its standard input."""
    if " | " in command:
        said, command = command.split(" | ", 1)
        monkeypatch.setattr(sys, "stdin", io.StringIO(shlex.split(said)[1] + "\n"))
    words = [word for word in shlex.split(command) if not word.startswith("JAX_NUM_CPU_DEVICES=")]
    if words[0] == "jaxllm":  # the installs are .ci/run's
        assert main(words[1:]) == 0, command


def test_quickstart(clone, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "--max-new-tokens", "20"])
    runpy.run_path(str(ROOT / "scripts" / "quickstart.py"), run_name="__main__")
    assert "query weights" in capsys.readouterr().out


def test_support_matrix():
    """The README's table names each architecture there is, and each is in the parity matrix in two shapes at least."""
    table = re.findall(r"^\| `(?!model_type)(\w+)` \|", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert table == names()
    compared = [config["model_type"] for config in tiny.CASES.values()]
    assert all(compared.count(name) >= 2 for name in table)
    assert set(compared) == set(table)
