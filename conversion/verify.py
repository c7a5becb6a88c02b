"""The proof: our logits and greedy tokens beside PyTorch's, for a given checkpoint."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from conversion.convert import Translation, translate, write
from conversion.export import export
from conversion.files import same_bytes
from conversion.reference import Reference
from conversion.source import Source, open_source
from conversion.table import bind, with_prefix
from jaxllm import checkpoint, config
from jaxllm.cache import Span
from jaxllm.generation.tokens import generate_tokens
from jaxllm.models.decoder import Decoder, abstract
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
    """What `verify` found.

    `greedy` counts the tokens that agree, of `greedy_total`; `round_trip` tells whether an export has the tensors of
    the source, bit for bit.
    """

    source: str
    model_type: str
    logits: list[Row]
    greedy: int
    greedy_total: int
    round_trip: bool
    layers: list[Row] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether all logits are within bounds, all greedy tokens agree and the export is the source."""
        within = all(row.difference <= row.bound for row in self.logits if row.bound is not None)
        return within and self.greedy == self.greedy_total and self.round_trip

    def print(self) -> None:
        """A table on stdout."""
        from rich.console import Console
        from rich.table import Table

        table = Table("", "max difference", "bound", title=f"{self.source} ({self.model_type}) against PyTorch")
        for row in [*self.logits, *self.layers]:
            table.add_row(row.name, f"{row.difference:.2e}", f"{row.bound:.0e}" if row.bound else "")
        table.add_row("greedy tokens", f"{self.greedy} of {self.greedy_total}", "all")
        table.add_row("exported again", "bit for bit" if self.round_trip else "DIFFERS", "bit for bit")
        table.add_row("verdict", "passed" if self.passed else "FAILED", "")
        Console().print(table)


def verify(source: str | Path, revision: str | None = None, *, layers: bool = False) -> Report:
    """Converts a checkpoint and compares it with the same in PyTorch, in float64 and float32.

    Logits of a batch of random tokens, and greedy tokens of a ragged batch; with `layers` also the residual stream
    after each layer but the last. Both sides run on the CPU: elsewhere float32 products may be rounded on their way.
    The converted checkpoint is also exported again, and compared with the source.

    Raises:
        InputError: the source cannot be converted, or PyTorch is not installed.
    """
    opened, cpu = open_source(source, revision), make_mesh(devices=jax.devices("cpu")[:1])
    translation = translate(opened)
    with tempfile.TemporaryDirectory() as work:
        native = write(translation, Path(work) / "native")
        same = _same_again(translation, export(native, Path(work) / "exported"))
        rows, depth, tokens = [], [], _tokens(checkpoint.read_config(native))
        for dtype, bound in BOUNDS.items():
            with jax.enable_x64(dtype == "float64"):
                model, reference = checkpoint.restore(native, cpu, dtype), Reference(opened, dtype)
                logits, states = reference.states(tokens)
                rows.append(Row(f"logits, {dtype}", _difference(_logits(model, tokens), logits), bound))
                if layers:
                    depth += _compare_layers(model, tokens, states, dtype)
        agree, total = _compare_greedy(checkpoint.restore(native, cpu, "float32"), opened, tokens)
    return Report(str(source), opened.config["model_type"], rows, agree, total, same, depth)


def _same_again(translation: Translation, exported: Path) -> bool:
    """Whether an export has every tensor that the source gives the model, and each bit for bit."""
    source, part, table = translation
    wanted = {name for binding in bind(table.rows, abstract(part)) for name in binding.theirs}
    theirs, written = with_prefix(table, source.tensors), open_source(exported).tensors
    return written.keys() == wanted and all(same_bytes(tensor, theirs[name]) for name, tensor in written.items())


def _tokens(part: config.Decoder) -> np.ndarray:
    """Random tokens [3 T], the same for the same model."""
    return np.random.default_rng(0).integers(0, part.vocab_size, (3, min(48, (part.context + 1) // 2)), np.int32)


def _logits(model: Decoder, tokens: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jit(lambda model, tokens: model(tokens))(model, tokens))


def _difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _compare_layers(model: Decoder, tokens: np.ndarray, states: Sequence[np.ndarray], dtype: str) -> list[Row]:
    """The residual stream after the embedding and after each layer but the last, whose norm Transformers includes."""
    whole = jnp.full(len(tokens), tokens.shape[1], jnp.int32)
    span = Span(None, whole, whole)
    x, rows = model.embed(jnp.asarray(tokens), span), []
    for index, theirs in enumerate(states):
        name = "embedding" if index == 0 else f"layer {index - 1}"
        rows.append(Row(f"{name}, {dtype}", _difference(np.asarray(x), theirs)))
        x, _ = model.layers[index](x, span)
    return rows


def _compare_greedy(model: Decoder, source: Source, tokens: np.ndarray) -> tuple[int, int]:
    """How many tokens of a ragged batch agree with each row's alone, and of how many.

    In a new model each: Transformers' dynamic rotary positions follow the longest row that a model has seen.
    """
    room = min(NEW_TOKENS, model.config.context - tokens.shape[1])
    prompts = [row[: max(1, tokens.shape[1] // (index + 1))].tolist() for index, row in enumerate(tokens)]
    ours = generate_tokens(model, prompts, max_new_tokens=room, eos_token_id=[])
    theirs = [Reference(source, "float32").greedy(prompt, room) for prompt in prompts]
    return sum(a == b for row in zip(ours, theirs, strict=True) for a, b in zip(*row, strict=True)), room * len(prompts)
