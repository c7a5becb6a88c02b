"""The proof: our logits and greedy tokens beside PyTorch's, for a given checkpoint."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from conversion.convert import translate, write
from conversion.reference import Reference
from conversion.source import open_source
from jaxllm import checkpoint, config
from jaxllm.errors import InputError
from jaxllm.generation.tokens import generate_tokens
from jaxllm.models.decoder import Decoder
from jaxllm.nn.position import Span
from jaxllm.sharding import make_mesh

# max |difference| relative to max |logit|; Transformers itself rounds rotary tables and norms through float32
BOUNDS = {"float64": 2e-6, "float32": 2e-5}
NEW_TOKENS = 64


@dataclass(frozen=True)
class Row:
    """One comparison: the largest difference relative to the largest value, and how much is allowed."""

    name: str
    difference: float
    bound: float | None = None


@dataclass(frozen=True)
class Report:
    """What `verify` found; `greedy` counts the tokens that agree, of `greedy_total`."""

    source: str
    model_type: str
    logits: list[Row]
    greedy: int
    greedy_total: int
    layers: list[Row] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether all logits are within bounds and all greedy tokens agree."""
        within = all(row.difference <= row.bound for row in self.logits if row.bound is not None)
        return within and self.greedy == self.greedy_total

    def print(self) -> None:
        """A table on stdout."""
        from rich.console import Console
        from rich.table import Table

        table = Table("", "max difference", "bound", title=f"{self.source} ({self.model_type}) against PyTorch")
        for row in [*self.logits, *self.layers]:
            table.add_row(row.name, f"{row.difference:.2e}", f"{row.bound:.0e}" if row.bound else "")
        table.add_row("greedy tokens", f"{self.greedy} of {self.greedy_total}", "all")
        table.add_row("verdict", "passed" if self.passed else "FAILED", "")
        Console().print(table)


def verify(source: str | Path, revision: str | None = None, *, layers: bool = False) -> Report:
    """Converts a checkpoint and compares it with the same in PyTorch, in float64 and float32.

    Logits of a batch of random tokens, and greedy tokens of a ragged batch; with `layers` also the residual stream
    after each layer but the last. Both sides run on the CPU: elsewhere float32 products may be rounded on their way.

    Raises:
        InputError: the source cannot be converted, or PyTorch is not installed.
    """
    if checkpoint.is_checkpoint(Path(source)):
        raise InputError(f"{source}: is a native checkpoint; verify takes the one that it was converted from")
    opened, cpu = open_source(source, revision), make_mesh(devices=jax.devices("cpu")[:1])
    with tempfile.TemporaryDirectory() as work:
        native = write(translate(opened), Path(work) / "native")
        rows, depth, tokens = [], [], _tokens(checkpoint.read_config(native))
        for dtype, bound in BOUNDS.items():
            with jax.enable_x64(dtype == "float64"):
                model, reference = checkpoint.restore(native, cpu, dtype), Reference(opened, dtype)
                logits, states = reference.states(tokens)
                rows.append(Row(f"logits, {dtype}", _difference(_logits(model, tokens), logits), bound))
                if layers:
                    depth += _compare_layers(model, tokens, states, dtype)
        agree, total = _compare_greedy(checkpoint.restore(native, cpu, "float32"), Reference(opened, "float32"), tokens)
    return Report(str(source), opened.config["model_type"], rows, agree, total, depth)


def _tokens(part: config.Decoder) -> np.ndarray:
    """Random tokens [3 T], the same for the same model."""
    return np.random.default_rng(0).integers(0, part.vocab_size, (3, min(48, part.context // 2)), np.int32)


def _logits(model: Decoder, tokens: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jit(lambda model, tokens: model(tokens))(model, tokens))


def _difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _compare_layers(model: Decoder, tokens: np.ndarray, states: Sequence[np.ndarray], dtype: str) -> list[Row]:
    """The residual stream after the embedding and after each layer but the last, whose norm Transformers includes."""
    start = jnp.zeros(len(tokens), jnp.int32)
    span = Span(start, start + tokens.shape[1])
    x, rows = model.embed(jnp.asarray(tokens), span), []
    for index, theirs in enumerate(states):
        name = "embedding" if index == 0 else f"layer {index - 1}"
        rows.append(Row(f"{name}, {dtype}", _difference(np.asarray(x), theirs)))
        x, _ = model.layers[index](x, span)
    return rows


def _compare_greedy(model: Decoder, reference: Reference, tokens: np.ndarray) -> tuple[int, int]:
    """How many tokens of a ragged batch agree, and of how many."""
    room = min(NEW_TOKENS, model.config.context - tokens.shape[1])
    prompts = [row[: max(1, tokens.shape[1] // (index + 1))].tolist() for index, row in enumerate(tokens)]
    ours = generate_tokens(model, prompts, max_new_tokens=room, eos_token_id=[])
    theirs = reference.greedy(prompts, room)
    return sum(a == b for row in zip(ours, theirs, strict=True) for a, b in zip(*row, strict=True)), room * len(prompts)
