"""Show devices, versions, caches, and which attention kernels are selected and why.

examples:
  jaxllm doctor
  jaxllm doctor --json
  jaxllm doctor --kernels          compares attention kernels with the reference on this device

A kernel is used on a device once it has equalled the reference there. `--kernels` runs the comparison and saves the
result; the exit code is 1 if a kernel is wrong. Run it again after an update of JAX or jaxllm.
"""

import argparse
import json
from typing import Any

from jaxllm.errors import InputError

ERRORS = ("out_error", "out_bound", "lse_error", "lse_bound")


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """Adds the arguments: what to examine, and how to show it."""
    verb.add_argument("--kernels", action="store_true", help="instead: compare kernels on this device, and remember")
    verb.add_argument("--limit", type=float, metavar="SECONDS", help="for each comparison, with --kernels (120)")
    verb.add_argument("--json", action="store_true", help="print it as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Prints the diagnosis. Exits with 1 if a kernel is wrong."""
    if arguments.kernels:
        return _compare(arguments)
    if arguments.limit is not None:
        raise InputError("--limit needs --kernels")
    from jaxllm.diagnosis import diagnose

    report = diagnose()
    if arguments.json:
        print(json.dumps(report))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table("", "", show_header=False, box=None)
    for section, rows in report.items():
        for index, (name, value) in enumerate(rows.items()):
            table.add_row(section if index == 0 else "", f"{name}: {value}")
    Console().print(table)
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from jaxllm.checks import real_number
    from jaxllm.diagnosis import LIMIT, validate_kernels
    from jaxllm.kernels.isolation import SubprocessError

    if arguments.limit is None:
        limit = LIMIT
    else:
        limit = real_number("limit", arguments.limit, min_value=1)
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def told(kernel: str, done: int, of: int) -> None:
            if kernel not in tasks:
                tasks[kernel] = bar.add_task(kernel, total=of)
            bar.update(tasks[kernel], completed=done)

        try:
            report = validate_kernels(limit=limit, quiet=not arguments.debug, told=told)
        except SubprocessError as error:
            raise InputError(f"doctor: no device can be used: {error}") from None
    if arguments.json:
        print(json.dumps(report))
    else:
        _print(report)
    if all(kernel["passed"] or not kernel["accepted"] for kernel in report["kernels"].values()):
        return 0
    return 1


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    device = report["device"]
    name = f"{device['kind']} ({device['platform']})"
    table = Table("kernel", "dtype", "values: error", "bound", "logarithms: error", "bound", "worst case", box=None)
    said = []
    for kernel, found in report["kernels"].items():
        for dtype, row in found["worst"].items():
            table.add_row(kernel, dtype, *map(_number, (row[key] for key in ERRORS)), row["case"])
        said.append(f"{kernel}: {_verdict(found)}")
        said += [f"  {row['case']}, {row['dtype']}: {_wrong(row)}" for row in found["failed"]]
    if report["file"] is None:
        said.append(f"no kernel is written for {name}: XLA's needs no proof to be used, and nothing is remembered")
    else:
        said.append(f"validated on this {name}: {', '.join(report['validated']) or 'none'}; kept in {report['file']}")
    console = Console()
    console.print(table)
    console.print(*said, sep="\n", markup=False, highlight=False)


def _verdict(found: dict[str, Any]) -> str:
    if not found["accepted"]:
        return "refuses every call on this device"
    if found["passed"]:
        return f"equals the reference in all {found['compared']} calls that it accepts"
    if found["failed"]:
        wrong = [f"WRONG in {len(found['failed'])} of {found['compared']} calls"]
    else:
        wrong = []
    ended = [f"given up at {found['ended']}"] if found["ended"] else []
    return "; ".join(wrong + ended)


def _wrong(row: dict[str, Any]) -> str:
    if row["failure"]:
        return row["failure"]
    return "values {} of {}, logarithms {} of {}".format(*map(_number, (row[key] for key in ERRORS)))


def _number(x: float | None) -> str:
    if x is None:
        return "not finite"
    return f"{x:.1e}"
