"""The parity matrix: one row per variant, what a config.json of it says.

Adding an architecture takes rows in one of these modules, and no test code.
"""

import importlib
import pkgutil
from typing import Any

CASES: dict[str, dict[str, Any]] = {}
for _module in pkgutil.iter_modules(__path__):
    for _name, _case in importlib.import_module(f"{__name__}.{_module.name}").CASES.items():
        assert _name not in CASES, f"two cases are named {_name}"
        CASES[_name] = _case
