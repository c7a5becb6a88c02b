"""Paths of the demo model, and of the cache for converted checkpoints and compiled programs."""

import os
from pathlib import Path

DEMO = Path(__file__).parent / "demo"


def cache_dir() -> Path:
    """Returns `$JAXLLM_CACHE`, or `jaxllm` in `$XDG_CACHE_HOME`, or `~/.cache/jaxllm`. It may not exist yet."""
    if given := os.environ.get("JAXLLM_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxllm"
