"""Draws the package structure of the code, from its imports, into docs/architecture.md.

python -m scripts.draw_architecture            updates the drawing
python -m scripts.draw_architecture --check    exits with 1 if the drawing is out of date
"""

import argparse
import ast
import re
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
BEGIN = "<!-- drawing: python -m scripts.draw_architecture -->"
END = "<!-- end of drawing -->"
LIBRARY = "jaxllm"


def package_of(module: str) -> str | None:
    """Returns the package of the drawing that a module belongs to; None for other libraries."""
    parts = module.split(".")
    if parts[0] == "conversion":
        return "conversion"
    if parts[0] != LIBRARY or len(parts) < 2:
        return None
    return parts[1]


def imports(path: Path) -> set[str]:
    """Returns the modules that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def dependencies() -> dict[str, set[str]]:
    """Returns the packages that each package imports."""
    graph: dict[str, set[str]] = defaultdict(set)
    for top in (LIBRARY, "conversion"):
        for path in sorted((ROOT / top).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            package = package_of(module)
            if package is None or package.startswith("__"):
                continue
            targets = {package_of(target) for target in imports(path)}
            graph[package] |= {target for target in targets if target not in (None, package, "version")}
    return {package: {target for target in targets if target in graph} for package, targets in graph.items()}


def levels(graph: dict[str, set[str]]) -> dict[str, int]:
    """Returns the level of each package: one above the highest package that it imports."""
    found: dict[str, int] = {}

    def level(package: str) -> int:
        if package not in found:
            found[package] = 1 + max((level(target) for target in graph[package]), default=-1)
        return found[package]

    for package in graph:
        level(package)
    return found


def draw() -> str:
    """Returns the drawing: a line per package, from the top level down, with the packages that it imports directly."""
    graph = dependencies()
    level = levels(graph)
    lines = []
    for package in sorted(graph, key=lambda package: (-level[package], package)):
        # what is imported through another package as well is left out
        indirect = set().union(*(reachable(graph, target) for target in graph[package]), set())
        direct = sorted(graph[package] - indirect, key=lambda target: (-level[target], target))
        arrow = f" --> {', '.join(direct)}" if direct else ""
        lines.append(f"{level[package]:2}  {package:<14}{arrow}".rstrip())
    return "\n".join(lines)


def reachable(graph: dict[str, set[str]], package: str) -> set[str]:
    """Returns all packages that a package imports, directly or indirectly."""
    found: set[str] = set()
    for target in graph[package]:
        found |= {target} | reachable(graph, target)
    return found


def updated(page: str) -> str:
    """Returns the page with a current drawing."""
    drawing = f"{BEGIN}\n\n```\n{draw()}\n```\n\n{END}"
    return re.sub(re.escape(BEGIN) + ".*?" + re.escape(END), lambda _: drawing, page, flags=re.DOTALL)


def main() -> None:
    """Updates the page, or checks it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit with 1 if the drawing is out of date"
    )
    arguments = parser.parse_args()
    page = PAGE.read_text("utf-8")
    if arguments.check:
        sys.exit(int(updated(page) != page))
    PAGE.write_text(updated(page), "utf-8")


if __name__ == "__main__":
    main()
