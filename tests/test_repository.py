"""What holds of the repository itself: layers, sizes, import cost, pinned versions, commands and links."""

import ast
import json
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from scripts import code_density, draw_architecture

ROOT = Path(__file__).resolve().parents[1]

# From the bottom up: a module imports from lower lines, or from its own package.
LAYERS = """
    errors version
    checks
    config progress sharding paths text atomic_write
    arrays cache quantization
    kernels
    nn
    parallel
    models
    checkpoint
    generation
    planning
    conversion
    diagnosis pretrained
    jaxllm
    cli
    __main__
"""
LEVELS = {name: level for level, line in enumerate(LAYERS.split("\n")) for name in line.split()}

PYTORCH = {"torch", "transformers"}
PYTORCH_READERS = {"conversion/pickled.py", "conversion/reference.py"}
SERVERS = {"fastapi", "uvicorn", "starlette", "aiohttp", "http.server"}
MODULE_OF = {"orbax-checkpoint": "orbax"}


@cache
def repository_files() -> list[Path]:
    """Every file that is in git or would be added to it."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [path for name in names if (path := ROOT / name).is_file()]


def python_files(*folders: str) -> list[Path]:
    return [p for p in repository_files() if p.suffix == ".py" and p.relative_to(ROOT).parts[0] in folders]


def markdown_files() -> list[Path]:
    return [path for path in repository_files() if path.suffix == ".md"]


def project_metadata() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def relative_name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported_names(path: Path) -> Iterator[str]:
    """Dotted names of what a file imports, wherever in the file it does so."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*start, *filter(None, [node.module])))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def package_of(dotted: str) -> str:
    """The line of the table that a module of ours stands on; what is in no module is in `jaxllm` itself."""
    top, *rest = dotted.split(".")
    return rest[0] if top == "jaxllm" and rest and rest[0] in LEVELS else top


def test_every_module_has_a_layer():
    parts = [path.relative_to(ROOT / "jaxllm").parts[0].removesuffix(".py") for path in python_files("jaxllm")]
    assert set(parts) - set(LEVELS) - {"__init__"} == set()


def test_imports_point_downwards():
    upwards = []
    for path in python_files("jaxllm", "conversion"):
        here = package_of(relative_name(path).removesuffix(".py").removesuffix("/__init__").replace("/", "."))
        for target in imported_names(path):
            there = package_of(target)
            if there in LEVELS and there != here and LEVELS[there] >= LEVELS[here]:
                upwards.append(f"{relative_name(path)} imports {target}")
    assert upwards == []


def test_only_readers_of_pickles_and_the_verifier_import_pytorch():
    found = {
        relative_name(path)
        for path in python_files("jaxllm", "conversion")
        for dotted in imported_names(path)
        if top_level_package(dotted) in PYTORCH
    }
    assert found <= PYTORCH_READERS


def test_every_import_is_declared():
    declared = {re.split(r"[^\w-]", requirement)[0] for requirement in project_metadata()["dependencies"]}
    known = {MODULE_OF.get(requirement, requirement) for requirement in declared}
    known |= PYTORCH | {"jaxllm", "conversion"} | sys.stdlib_module_names
    assert {
        top_level_package(dotted) for path in python_files("jaxllm", "conversion") for dotted in imported_names(path)
    } <= known


def top_level_package(dotted: str) -> str:
    return dotted.split(".")[0]


def test_files_are_short():
    lengths = {
        relative_name(p): p.read_text("utf-8").count("\n")
        for p in python_files("jaxllm", "conversion", "scripts", "tests")
    }
    assert {path: lines for path, lines in lengths.items() if lines >= 250} == {}


def run_in_fresh_python(program: str):
    """What a program prints, as JSON, in an interpreter of its own."""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_import_is_cheap():
    program = """if True:
        import json, sys, time
        import flax, jax
        modules, start = set(sys.modules), time.process_time()
        import jaxllm
        print(json.dumps([time.process_time() - start, sorted(set(sys.modules) - modules)]))
    """
    runs = [run_in_fresh_python(program) for _ in range(3)]
    assert statistics.median(seconds for seconds, _ in runs) < 0.3  # of this process, whatever else the machine does
    assert (PYTORCH | SERVERS).isdisjoint(runs[0][1])


def test_everything_exported_comes_without_pytorch():
    program = """if True:
        import json, sys
        import jaxllm
        for name in jaxllm.__all__:
            getattr(jaxllm, name)
        print(json.dumps(sorted(sys.modules)))
    """
    assert PYTORCH.isdisjoint(run_in_fresh_python(program))


def test_pins_agree():
    pins = dict(pin.split("==") for pin in project_metadata()["optional-dependencies"]["test"])
    hooks = re.findall(r'"(\w+)(?:==|@)([\d.]+)"', (ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    assert set(hooks) == {(tool, pins[tool]) for tool in ("ruff", "pyright")}


def test_ci_runs_what_the_readme_prints():
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    command = ["bash", ".ci/run", "--commands"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert run == [block.strip() for block in blocks[:2]]
    assert run[0].startswith('pip install -e . && jaxllm generate "')
    assert run[1] == 'pip install -e ".[test]" && pytest'


def without_code_blocks(path: Path) -> str:
    """A markdown file without its code blocks."""
    return re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def heading_anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", without_code_blocks(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_resolve():
    broken = []
    for path in markdown_files():
        for link in re.findall(r"\]\(([^)\s]+)\)", without_code_blocks(path)):
            if re.match(r"https?:|mailto:", link):
                continue
            file, _, anchor = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            if not target.exists() or (anchor and anchor not in heading_anchors(target)):
                broken.append(f"{relative_name(path)}: {link}")
    assert broken == []


def test_no_machine_paths_in_prose():
    pattern = re.compile(r"(?<![\w.~:/])/(?:home|root|work|opt|mnt|Users)/|\b[A-Z]:\\")
    assert [relative_name(path) for path in markdown_files() if pattern.search(path.read_text("utf-8"))] == []


def test_architectures_are_data():
    """Their files are short, and no part has the name of one; `llama3` is what a rotary scaling is called."""
    files = [
        path for path in python_files("conversion") if path.parent.name == "architectures" and path.stem != "__init__"
    ]
    lengths = [len(path.read_text("utf-8").splitlines()) for path in files]
    assert statistics.median(lengths) < 80
    assert max(lengths) <= 200
    names = {path.stem.replace("-", "_") for path in files}
    for path in python_files("jaxllm"):
        if path.parent.name in ("cache", "config", "kernels", "models", "nn", "sharding"):
            nodes = [vars(node) for node in ast.walk(ast.parse(path.read_text("utf-8")))]
            said = {str(node.get(key)).lower() for node in nodes for key in ("id", "name", "attr", "arg")}
            assert not {word for text in said for word in text.split("_")} & names, path


def test_architecture_page_shows_the_imports():
    """The drawing is current, and every file that the page names exists."""
    page = draw_architecture.PAGE.read_text("utf-8")
    assert draw_architecture.updated(page) == page
    packages = {name for name in draw_architecture.dependencies() if f"jaxllm/{name}" in page or name == "conversion"}
    files = re.findall(r"`((?:jaxllm|conversion)/[\w/]+\.py)`", page)
    assert {"config", "nn", "models", "parallel", "kernels", "cache", "sharding", "generation"} <= packages
    assert len(files) > 20
    assert [file for file in files if not (ROOT / file).is_file()] == []


def test_code_is_not_dense():
    """Parallel assignments and conditional expressions stay rare."""
    for package in code_density.PACKAGES:
        counts = code_density.per_thousand(code_density.count_package(package))
        for construct, limit in code_density.LIMITS.items():
            assert counts[construct] < limit, (package, construct)
