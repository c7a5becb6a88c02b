"""Counts constructs that make code dense, per 1,000 code lines of jaxllm/ and conversion/.

python -m scripts.code_density             counts of each package
python -m scripts.code_density --files     the files with the most of them
"""

import argparse
import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("jaxllm", "conversion")
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
LIMITS = {"parallel assignments": 6, "conditional expressions": 15}  # per 1,000 code lines of a package


def constructs(tree: ast.AST) -> Iterator[str]:
    """Yields the name of each counted construct in a syntax tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
            if any(isinstance(target, ast.Tuple) for target in node.targets):
                yield "parallel assignments"
        elif isinstance(node, ast.IfExp):
            yield "conditional expressions"
        elif isinstance(node, COMPREHENSIONS):
            yield "comprehensions"


def code_lines(text: str) -> int:
    """Returns the number of lines that are neither blank nor a comment."""
    return sum(1 for line in text.split("\n") if line.strip() and not line.strip().startswith("#"))


def count(path: Path) -> Counter[str]:
    """Counts the constructs and code lines of one file."""
    text = path.read_text("utf-8")
    found = Counter(constructs(ast.parse(text)))
    found["code lines"] = code_lines(text)
    return found


def per_thousand(found: Counter[str]) -> dict[str, float]:
    """Returns the constructs per 1,000 code lines."""
    names = ("parallel assignments", "conditional expressions", "comprehensions")
    return {name: 1000 * found[name] / found["code lines"] for name in names}


def count_package(package: str) -> Counter[str]:
    """Counts the constructs and code lines of all files of a package."""
    return sum((count(path) for path in sorted((ROOT / package).rglob("*.py"))), Counter())


def main() -> None:
    """Prints the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", action="store_true", help="list the files with the most of them")
    arguments = parser.parse_args()
    for package in PACKAGES:
        counts = per_thousand(count_package(package))
        print(f"{package}: " + ", ".join(f"{number:.1f} {name}" for name, number in counts.items()))
    if arguments.files:
        files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
        for path in sorted(files, key=lambda path: -sum(count(path)[name] for name in LIMITS))[:40]:
            found = count(path)
            dense = ", ".join(f"{found[name]} {name}" for name in LIMITS)
            print(f"{path.relative_to(ROOT)}: {dense}, {found['code lines']} code lines")


if __name__ == "__main__":
    main()
