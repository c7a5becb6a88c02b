"""Verifies a checkpoint: compares our logits and greedy tokens with PyTorch's."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from conversion.binding import bind
from conversion.claim import with_prefix
from conversion.convert import Translation, translate, write
from conversion.export import export
from conversion.files import same_bytes
from conversion.reference import Reference
from conversion.source import Source, open_source
from jaxllm import checkpoint
from jaxllm.config import DecoderConfig
from jaxllm.generation.tokens import generate_tokens
from jaxllm.models.abstract import abstract
from jaxllm.models.decoder import Decoder
from jaxllm.sharding import make_mesh

# max |difference| relative to max |logit|; Transformers itself rounds rotary tables and norms through float32
BOUNDS = {"float64": 2e-6, "float32": 2e-5}
NEW_TOKENS = 64


@dataclass(frozen=True)
class ComparisonRow:
    """One comparison: the largest difference relative to the largest value, and its bound."""

    name: str
    difference: float
    bound: float | None = None


@dataclass(frozen=True)
class VerifyReport:
    """The result of `verify`.

    `greedy` of `greedy_total` tokens agree. `round_trip` says whether an export has the source's tensors, bit for bit.
    """

    source: str
    model_type: str
    logits: list[ComparisonRow]
    greedy: int
    greedy_total: int
    round_trip: bool
    layers: list[ComparisonRow] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether all logits are within bounds, all greedy tokens agree, and the export equals the source."""
        within = all(row.difference <= row.bound for row in self.logits if row.bound is not None)
        return within and self.greedy == self.greedy_total and self.round_trip

    def print(self) -> None:
        """Prints a table on stdout."""
        from rich.console import Console
        from rich.table import Table

        table = Table("", "max difference", "bound", title=f"{self.source} ({self.model_type}) against PyTorch")
        for row in [*self.logits, *self.layers]:
            table.add_row(row.name, f"{row.difference:.2e}", f"{row.bound:.0e}" if row.bound else "")
        table.add_row("greedy tokens", f"{self.greedy} of {self.greedy_total}", "all")
        table.add_row("exported again", "bit for bit" if self.round_trip else "DIFFERS", "bit for bit")
        table.add_row("verdict", "passed" if self.passed else "FAILED", "")
        Console().print(table)


def verify(source: str | Path, revision: str | None = None, *, layers: bool = False) -> VerifyReport:
    """Converts a checkpoint and compares it with PyTorch in float64 and float32.

    Compares the logits of a batch of random tokens, and the greedy tokens of a ragged batch. With `layers` also the
    residual stream before and after each layer but the last. Both sides run on the CPU: other devices may round float32
    products. The converted checkpoint is exported, and compared with the source.

    Raises:
      InputError: the source cannot be converted, or PyTorch is not installed.
    """
    opened = open_source(source, revision)
    cpu = make_mesh(devices=jax.devices("cpu")[:1])
    translation = translate(opened)
    with tempfile.TemporaryDirectory() as work:
        native = write(translation, Path(work) / "native")
        same = _round_trip_is_identical(translation, export(native, Path(work) / "exported"))
        rows = []
        depth = []
        tokens = _tokens(checkpoint.read_config(native))
        for dtype, bound in BOUNDS.items():
            with jax.enable_x64(dtype == "float64"):
                model = checkpoint.restore(native, cpu, dtype)
                reference = Reference(opened, dtype)
                logits, states = reference.states(tokens)
                rows.append(ComparisonRow(f"logits, {dtype}", _difference(_logits(model, tokens), logits), bound))
                if layers:
                    depth += _compare_layers(model, tokens, states, dtype)
        agree, total = _compare_greedy(checkpoint.restore(native, cpu, "float32"), opened, tokens)
    return VerifyReport(str(source), opened.config["model_type"], rows, agree, total, same, depth)


def _round_trip_is_identical(translation: Translation, exported: Path) -> bool:
    """Whether an export has every tensor that the model uses, bit for bit."""
    source, config, table = translation
    wanted = {name for binding in bind(table.rows, abstract(config)) for name in binding.sources}
    theirs = with_prefix(table, source.tensors)
    written = open_source(exported).tensors
    return written.keys() == wanted and all(same_bytes(tensor, theirs[name]) for name, tensor in written.items())


def _tokens(config: DecoderConfig) -> np.ndarray:
    """Returns random tokens [3 T], the same for the same model."""
    return np.random.default_rng(0).integers(
        0, config.vocab_size, (3, min(48, (config.max_position_embeddings + 1) // 2)), np.int32
    )


def _logits(model: Decoder, tokens: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jit(lambda model, tokens: model(tokens))(model, tokens))


def _difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _compare_layers(
    model: Decoder, tokens: np.ndarray, states: Sequence[np.ndarray], dtype: str
) -> list[ComparisonRow]:
    """Compares the residual stream before and after each layer but the last, whose output Transformers normalizes."""
    names = ["embedding", *(f"layer {index}" for index in range(len(states) - 1))]
    ours = model.hidden_states(jnp.asarray(tokens))[: len(states)]
    return [
        ComparisonRow(f"{name}, {dtype}", _difference(np.asarray(x), theirs))
        for name, x, theirs in zip(names, ours, states, strict=True)
    ]


def _compare_greedy(model: Decoder, source: Source, tokens: np.ndarray) -> tuple[int, int]:
    """Returns how many greedy tokens of a ragged batch agree with each row's alone, and their number.

    Each row gets a new reference: Transformers' dynamic rotary positions depend on the longest row that a model has
    processed.
    """
    room = min(NEW_TOKENS, model.config.max_position_embeddings - tokens.shape[1])
    prompts = [row[: max(1, tokens.shape[1] // (index + 1))].tolist() for index, row in enumerate(tokens)]
    ours = generate_tokens(model, prompts, max_new_tokens=room, eos_token_id=[])
    theirs = [Reference(source, "float32").greedy(prompt, room) for prompt in prompts]
    return sum(a == b for row in zip(ours, theirs, strict=True) for a, b in zip(*row, strict=True)), room * len(prompts)
