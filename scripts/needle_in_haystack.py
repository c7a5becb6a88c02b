"""Hides a fact at some depth of a context of some length, asks for it, and draws how well it is found (Kamradt 2023).

Lengths are exact, in tokens, question included. Scores: "recall", the share of the answer's keywords in what the model
says; "accuracy", the share of the answer's tokens that are the likeliest, each after all those before it; "gain", by
how many nats a token the needle makes the answer likelier, which says something of base models too. The demo model, the
default, can be asked but knows no answers: what is measured is the harness.

examples:
  python -m scripts.needle_in_haystack --score gain
  python -m scripts.needle_in_haystack --model path/to/model --lengths 4096 16384 65536 --cache-dtype int8
  python -m scripts.needle_in_haystack --model path/to/model --haystack essays.txt --mesh tensor=8 --out needles.png
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxllm.cache.quantized_kv import DTYPES
from jaxllm.checks import whole_number
from jaxllm.cli.common import add_model_arguments, load_model
from jaxllm.errors import InputError
from jaxllm.generation.tokens import PREFILL_CHUNK
from jaxllm.models.decoder import Decoder
from jaxllm.text import Tokenizer
from jaxllm.text.files import read_text
from scripts.command_line import exit_on_error
from scripts.haystack import SCORES, Haystack, Needle, NeedleEvaluator
from scripts.plotting import png_axes, require_plotting

DEFAULT_HAYSTACK = Path(__file__).with_name("haystack.txt")  # Shakespeare, held out from the demo model
DEFAULT_MAX_LENGTH = 32_768  # tokens, unless lengths are given


class Cell(NamedTuple):
    """One prompt: its length in tokens, the depth of the needle, how well it was found, and what that measures."""

    length: int
    depth: float
    score: float
    detail: str


def evaluate_grid(
    model: Decoder,
    tokenizer: Tokenizer,
    needle: Needle,
    text: str,
    *,
    score: str = "recall",
    lengths: Sequence[int] | None = None,
    depths: Sequence[float],
    chat: bool | None = None,
    max_new_tokens: int | None = None,
    prefill_chunk_size: int = PREFILL_CHUNK,
    cache_dtype: str | None = None,
) -> list[Cell]:
    """Returns a cell for every length and depth; by default eight lengths up to the model's context.

    Raises:
      InputError: a length with no room for needle and question, or beyond the context; a depth outside 0 to 1; an
        answer without a word; an option outside of its range.
    """
    if not needle.keywords:
        raise InputError(f"answer={needle.answer!r}: has no words to look for")
    whole_number("prefill_chunk_size", prefill_chunk_size, min_value=1)
    if chat is None:
        chat = tokenizer.chat_template is not None
    limit = model.config.max_length
    longest = int(min(limit, DEFAULT_MAX_LENGTH)) if lengths is None else max(lengths)
    haystack = Haystack.from_text(tokenizer, text, needle, longest, chat)
    num_new_tokens = (
        2 * len(haystack.answer_tokens)
        if max_new_tokens is None
        else whole_number("max_new_tokens", max_new_tokens, min_value=1)
    )
    answer_room = max(num_new_tokens, len(haystack.answer_tokens))
    if lengths is None:
        least = haystack.min_length + 1
        most = longest - answer_room
        lengths = sorted({max(least, round(most * i / 8)) for i in range(1, 9)})
    if max(lengths) + answer_room > limit:
        raise InputError(f"{max(lengths)} tokens and {answer_room} of the answer: the model's context is {limit}")
    if not all(0 <= depth <= 1 for depth in depths):
        raise InputError("depths must be from 0 to 100 percent")
    evaluator = NeedleEvaluator(model, tokenizer, needle, haystack, num_new_tokens, prefill_chunk_size, cache_dtype)
    cells = []
    for length in lengths:
        cells += [Cell(length, depth, *SCORES[score](evaluator, haystack.prompt(length, depth))) for depth in depths]
        mean = np.mean([cell.score for cell in cells if cell.length == length])
        print(f"{length:,} tokens: {score} {mean:.2f}", file=sys.stderr, flush=True)
    return cells


def score_grid(cells: Sequence[Cell]) -> tuple[list[int], list[float], np.ndarray]:
    """The lengths, the depths, and the scores [depths lengths]."""
    lengths = sorted({cell.length for cell in cells})
    depths = sorted({cell.depth for cell in cells})
    scores = np.full((len(depths), len(lengths)), math.nan)
    for cell in cells:
        scores[depths.index(cell.depth), lengths.index(cell.length)] = cell.score
    return lengths, depths, scores


def markdown_table(cells: Sequence[Cell]) -> str:
    """Formats the cells as a Markdown table, with a row for each depth and a column for each length."""
    lengths, depths, scores = score_grid(cells)
    lines = [["depth", *(f"{length:,}" for length in lengths)], ["---:"] * (1 + len(lengths))]
    lines += [[f"{depth:.0%}", *(f"{x:.2f}" for x in row)] for depth, row in zip(depths, scores, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(cells: Sequence[Cell], title: str, path: Path) -> None:
    """Draws depth against length, from red for 0 to green for 1 or the largest value."""
    lengths, depths, scores = score_grid(cells)
    with png_axes(path, 2.5 + 0.8 * len(lengths), 1.5 + 0.4 * len(depths)) as plot:
        max_score = max(1, scores.max())
        image = plot.imshow(scores, cmap="RdYlGn", vmin=0, vmax=max_score, aspect="auto")
        for (row, column), score in np.ndenumerate(scores):
            colour = "black"
            if not 0.15 < score / max_score < 0.85:
                colour = "white"
            plot.text(column, row, f"{score:.2f}", ha="center", va="center", fontsize=8, color=colour)
        plot.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths])
        plot.set_yticks(range(len(depths)), [f"{depth:.0%}" for depth in depths])
        plot.set(xlabel="tokens of the context", ylabel="depth of the needle", title=title)
        plot.figure.colorbar(image)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments."""
    summary, _, details = (__doc__ or "").partition("\n")
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=summary, epilog=details.strip(), formatter_class=raw)
    add_model_arguments(parser)
    parser.add_argument("--score", choices=SCORES, default="recall", help="what is drawn (recall)")
    parser.add_argument("--lengths", type=int, nargs="+", metavar="N", help="tokens (eight, up to the model's context)")
    parser.add_argument("--depths", type=float, nargs="+", metavar="PERCENT", default=range(0, 101, 10))
    for name, default in Needle()._asdict().items():
        parser.add_argument(f"--{name.replace('_', '-')}", default=default, help=f"({default.strip()})")
    parser.add_argument("--haystack", type=Path, default=DEFAULT_HAYSTACK, help="a text file (scenes of Shakespeare's)")
    parser.add_argument(
        "--chat", action=argparse.BooleanOptionalAction, help="ask by the chat template, if there is one"
    )
    parser.add_argument("--max-new-tokens", type=int, help="twice the answer's, if not given")
    parser.add_argument("--prefill-chunk-size", type=int, default=PREFILL_CHUNK, help=f"({PREFILL_CHUNK})")
    parser.add_argument("--cache-dtype", choices=DTYPES, help="what keys and values are kept in (the model's own)")
    parser.add_argument(
        "--out", type=Path, default="needle_in_haystack.png", help="the picture; a .json goes beside it"
    )
    return parser.parse_args(argv)


@exit_on_error("needle_in_haystack")
def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    require_plotting(arguments.out)
    needle = Needle(*(getattr(arguments, name) for name in Needle._fields))
    text = read_text(arguments.haystack)
    depths = [percent / 100 for percent in arguments.depths]
    names = ("score", "lengths", "chat", "max_new_tokens", "prefill_chunk_size", "cache_dtype")
    model, tokenizer = load_model(arguments)
    options = {name: getattr(arguments, name) for name in names}
    cells = evaluate_grid(model, tokenizer, needle, text, depths=depths, **options)
    print(markdown_table(cells))
    report = {
        "model": arguments.model or "demo",
        **options,
        **needle._asdict(),
        "cells": [cell._asdict() for cell in cells],
    }
    arguments.out.with_suffix(".json").write_text(json.dumps(report, indent=1))
    title = f"{Path(report['model']).name}: {arguments.score}, {np.mean([cell.score for cell in cells]):.2f} on average"
    draw(cells, title, arguments.out)


if __name__ == "__main__":
    main()
