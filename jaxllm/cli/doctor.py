"""Show devices, versions, caches, and which attention would be chosen and why.

examples:
  jaxllm doctor
  jaxllm doctor --json
"""

import argparse
import json


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """How to show it."""
    verb.add_argument("--json", action="store_true", help="print it as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Prints the diagnosis."""
    from jaxllm.diagnosis import diagnose

    report = diagnose()
    if arguments.json:
        print(json.dumps(report))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("", "", show_header=False, box=None)
    for section, rows in report.items():
        for index, (name, value) in enumerate(rows.items()):
            table.add_row(section if index == 0 else "", f"{name}: {value}")
    Console().print(table)
