"""Every test runs on the CPU, with eight simulated devices and a cache of its own."""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

os.environ["JAX_PLATFORMS"] = "cpu"
jax.config.update("jax_num_cpu_devices", 8)
os.fsync = lambda descriptor: None  # what tests write need not outlive a power cut

_TESTS = itertools.count(1)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache directory that no other run has seen."""
    path = tmp_path_factory.mktemp("cache")
    os.environ["JAXLLM_CACHE"] = str(path)
    return path


@pytest.fixture(autouse=True)
def clear_compiled_programs() -> Iterator[None]:
    """Forgets compiled programs now and then: each keeps memory maps, of which Linux allows a process 65530."""
    yield
    if next(_TESTS) % 20 == 0:
        jax.clear_caches()


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The directory of a case's checkpoint in Hugging Face's layout, written once."""
    from tests import tiny

    root, written = tmp_path_factory.mktemp("checkpoints"), {}

    def checkpoint(case: str, dtype: Any = "float32") -> Path:
        key = f"{case}-{dtype}"
        if key not in written:
            kind = tiny.BFLOAT16 if dtype == "bfloat16" else dtype
            written[key] = tiny.write(root / key, tiny.CASES[case], dtype=kind)
        return written[key]

    return checkpoint


@pytest.fixture
def quick_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    """`generate` by programs that compile in little time, instead of those that users have."""
    from jaxllm.generation import tokens
    from tests import quick

    for name in ("new_cache", "prefill_chunk", "prefill", "decode"):
        monkeypatch.setattr(tokens, name, getattr(quick, name))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch, quick_generation: None) -> list[int]:
    """How many tokens of prompts have been read since it was cleared, a number per call."""
    from jaxllm.generation import tokens

    counts = []

    def counting(f: Callable[..., Any]) -> Callable[..., Any]:
        def call(model: Any, cache: Any, last: Any, tokens: Any, lengths: Any, *rest: Any) -> Any:
            begun = 0 if cache.lengths is None else int(cache.lengths[0])
            counts.append(min(int(lengths[0]) - begun, tokens.shape[1]))
            return f(model, cache, last, tokens, lengths, *rest)

        return call

    for name in ("prefill_chunk", "prefill"):
        monkeypatch.setattr(tokens, name, counting(getattr(tokens, name)))
    return counts
