"""Compares every architecture with PyTorch, and writes what came out into docs/support.md and README.md.

python -m scripts.support_matrix                 # all of them, every case of tests/cases: half an hour on 2 cores
python -m scripts.support_matrix llama gpt2      # only these; the other rows stay as they are
"""

import argparse
import datetime
import importlib.metadata
import platform
import re
import tempfile
from pathlib import Path
from typing import NamedTuple

from conversion import verify
from conversion.architectures import architecture, names
from conversion.verify import BOUNDS, VerifyReport
from tests import tiny

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "support.md"
README = ROOT / "README.md"
BEGIN = "<!-- support matrix -->"
END = "<!-- end -->"
PACKAGES = ("jax", "flax", "torch", "transformers")
INTRODUCTION = """# What is supported

Written by `python -m scripts.support_matrix`; not to be edited by hand.

Each variant is a tiny model with random weights, one way that the config can turn (`tests/cases`). It is written to
disk, converted, restored and run beside Transformers on the CPU, as by `jaxllm verify`: the largest difference of a
logit over the largest logit, for three rows of random tokens, the worst of all variants; how many greedy tokens agree;
and whether the checkpoint, exported again, has the tensors it was converted from, bit for bit. The bounds are {bounds}.
"""


class MatrixRow(NamedTuple):
    model_type: str
    models: str
    variants: int
    float64: float
    float32: float
    greedy: int
    greedy_total: int
    round_trip: bool

    @property
    def full(self) -> str:
        figures = f"{self.float64:.1e} | {self.float32:.1e} | {self.greedy} of {self.greedy_total}"
        exported = "bit for bit"
        if not self.round_trip:
            exported = "differs"
        return f"| `{self.model_type}` | {self.models} | {self.variants} | {figures} | {exported} |"


FULL = ("`model_type`", "Models", "Variants", "float64", "float32", "Greedy tokens", "Exported again")
SHORT = FULL[:5]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what is supported.")
    parser.add_argument("model_types", nargs="*", metavar="MODEL_TYPE", help="only these (default: all)")
    for model_type in parser.parse_args().model_types or names():
        write(measure(model_type))  # at once: the next may take long, or fail


def write(new: MatrixRow) -> None:
    """Puts a row into both tables, as they are by now."""
    kept = kept_rows() | {new.model_type: new.full}
    rows = [kept[name] for name in names() if name in kept]
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    bounds = " and ".join(f"{bound:.0e} in {dtype}" for dtype, bound in BOUNDS.items())
    measured = f"Last run on {datetime.date.today()} with {packages}, Python {platform.python_version()}."
    DOCUMENT.write_text(f"{INTRODUCTION.format(bounds=bounds)}\n{measured}\n\n{table(FULL, rows)}\n", "utf-8")
    before, _, rest = README.read_text("utf-8").partition(BEGIN)
    short = table(SHORT, [shorter(row) for row in rows])
    README.write_text(f"{before}{BEGIN}\n{short}\n{END}{rest.partition(END)[2]}", "utf-8")


def measure(model_type: str) -> MatrixRow:
    """The worst of all cases of an architecture, each verified as any checkpoint is."""
    known = architecture(model_type)
    reports = [
        verified(name)
        for name, case in tiny.CASES.items()
        if architecture(case["model_type"]).model_type == known.model_type
    ]
    worst = {dtype: max(report.logits[i].difference for report in reports) for i, dtype in enumerate(BOUNDS)}
    return MatrixRow(
        model_type=model_type,
        models=known.models,
        variants=len(reports),
        **worst,
        greedy=sum(report.greedy for report in reports),
        greedy_total=sum(report.greedy_total for report in reports),
        round_trip=all(report.round_trip for report in reports),
    )


def verified(case: str) -> VerifyReport:
    with tempfile.TemporaryDirectory() as work:
        report = verify(tiny.write(Path(work) / case, tiny.CASES[case]))
    print(f"{case}: {'passed' if report.passed else f'FAILED: {report}'}", flush=True)
    return report


def kept_rows() -> dict[str, str]:
    """The rows of the document that is there, by model type."""
    text = ""
    if DOCUMENT.is_file():
        text = DOCUMENT.read_text("utf-8")
    return {row[1]: row[0] for row in re.finditer(r"^\| `([\w-]+)` \|.*$", text, re.MULTILINE) if row[1] in names()}


def table(columns: tuple[str, ...], rows: list[str]) -> str:
    return "\n".join([f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *rows])


def shorter(row: str) -> str:
    return f"{'|'.join(row.split('|')[: len(SHORT) + 1])}|"


if __name__ == "__main__":
    main()
