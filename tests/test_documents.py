"""What the README and docs print is run: every Python block, and every line of every sh block that calls jaxllm."""

import io
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from conversion.architectures import architecture, names
from conversion.verify import BOUNDS
from jaxllm import cli
from jaxllm.cli import main
from jaxllm.cli.common import parse_extents
from jaxllm.sharding import axis_sizes
from scripts import draw_sharding, generate_multi_gpu, support_matrix
from tests import tiny

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def code_blocks(language: str) -> list[tuple[str, str]]:
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [(path.name, block) for path in DOCUMENTS for block in pattern.findall(path.read_text("utf-8"))]


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A place that looks like the repository's root, for what the commands write."""
    (tmp_path / "jaxllm").symlink_to(ROOT / "jaxllm")
    monkeypatch.chdir(tmp_path)


def test_python_blocks(clone, capsys):
    namespace: dict[str, dict] = {}
    for document, block in code_blocks("python"):
        exec(compile(block, document, "exec"), namespace.setdefault(document, {}))
    assert len(namespace["README.md"]["texts"]) == 2
    assert len(namespace["README.md"]["ids"][0]) == 8


@pytest.mark.torch
def test_commands(clone, capsys, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    commands = [line for _, block in code_blocks("sh") for line in block.splitlines() if "jaxllm " in line]
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
    if "--distributed" in words:  # before anything else is done with JAX
        assert subprocess.run([sys.executable, "-m", *words], cwd=ROOT).returncode == 0, command
    elif words[0] == "jaxllm":  # the installs are .ci/run's
        assert main(words[1:]) == 0, command


def test_drawings(capsys):
    """What a console block shows is what its command prints."""
    shown = [block.split("\n", 1) for _, block in code_blocks("console")]
    assert len(shown) >= 5
    for command, printed in shown:
        name, *words = command.removeprefix("$ python -m ").split()
        assert name == "scripts.draw_sharding"
        draw_sharding.main(words)
        assert capsys.readouterr().out == printed, command


def test_launch_lines():
    """Commands that take a cluster are at least commands: in text blocks, with whatever launches them before."""
    programs = {"jaxllm": cli._parsed, "scripts/generate_multi_gpu.py": generate_multi_gpu.parse_arguments}
    lines = [line for _, block in code_blocks("text") for line in block.splitlines() if not line.startswith("#")]
    parsed = []
    for line in lines:
        words = shlex.split(line.partition("--command=")[2].strip("'") or line)
        name = next(word for word in words if word in programs)
        parsed.append(programs[name](words[words.index(name) + 1 :]))
    assert sum(arguments.distributed for arguments in parsed) >= 6
    for arguments in parsed:
        axis_sizes(parse_extents(arguments.mesh or "tensor=-1"), 16)


def test_quickstart(clone, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "--max-new-tokens", "20"])
    runpy.run_path(str(ROOT / "scripts" / "quickstart.py"), run_name="__main__")
    assert "query weights" in capsys.readouterr().out


def matrix_rows(path: Path) -> dict[str, list[str]]:
    """The cells of the rows of a support matrix, by model type."""
    found = re.findall(r"^\| `(?!model_type)([\w-]+)` \| (.*) \|$", path.read_text("utf-8"), re.MULTILINE)
    return {name: cells.split(" | ") for name, cells in found}


def test_added_architecture():
    """What the page on adding an architecture shows is what the repository holds."""
    shown = [re.findall(r"^\+(?!\+\+ )(.*)", block, re.MULTILINE) for _, block in code_blocks("diff")]
    files = [re.search(r"^\+\+\+ (.*)", block, re.MULTILINE) for _, block in code_blocks("diff")]
    file, row = [(ROOT / found[1]).read_text("utf-8").splitlines() for found in files if found]
    assert shown[0] == file
    assert set(shown[1]) <= set(row)


@pytest.mark.torch
def test_support_matrix_is_measured(tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers")
    for name in ("DOCUMENT", "README"):
        path = getattr(support_matrix, name)
        monkeypatch.setattr(support_matrix, name, shutil.copy(path, tmp_path / path.name))
    monkeypatch.setattr(tiny, "CASES", {"gpt2": tiny.CASES["gpt2"]})
    monkeypatch.setattr(sys, "argv", ["support_matrix", "gpt2"])
    support_matrix.main()
    assert capsys.readouterr().out == "gpt2: passed\n"
    assert matrix_rows(tmp_path / "support.md")["gpt2"][1] == "1"
    assert matrix_rows(tmp_path / "README.md").keys() == matrix_rows(ROOT / "README.md").keys()


def test_support_matrix():
    """What `python -m scripts.support_matrix` wrote: every architecture, in two shapes at least, within the bounds."""
    full, short = matrix_rows(ROOT / "docs" / "support.md"), matrix_rows(ROOT / "README.md")
    assert list(full) == list(short) == names()
    compared = Counter(architecture(config["model_type"]).model_type for config in tiny.CASES.values())
    for name, (_, variants, float64, float32, greedy, exported) in full.items():
        assert short[name] == full[name][:4]
        assert int(variants) == compared[name] >= 2, name
        assert float(float64) <= BOUNDS["float64"], name
        assert float(float32) <= BOUNDS["float32"], name
        assert len(set(greedy.split(" of "))) == 1, name
        assert exported == "bit for bit", name
