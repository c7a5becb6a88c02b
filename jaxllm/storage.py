"""Where jaxllm finds its demo model, and keeps what can be made again: converted checkpoints, compiled programs."""

import os
from pathlib import Path

DEMO = Path(__file__).parent / "demo"


def cache_dir() -> Path:
    """`$JAXLLM_CACHE`, or `jaxllm` in `$XDG_CACHE_HOME`, or `~/.cache/jaxllm`; not necessarily there yet."""
    if given := os.environ.get("JAXLLM_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxllm"
