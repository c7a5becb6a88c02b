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
from scripts.command import mistakes
from scripts.haystack import SCORES, Haystack, Needle, Reader
from scripts.pictures import axes, require_drawing

TEXT = Path(__file__).with_name("haystack.txt")  # of Shakespeare, from what the demo model was not trained on
LONGEST = 32_768  # tokens, unless lengths are given


class Cell(NamedTuple):
    """One prompt: its length in tokens, the depth of the needle, how well it was found, and what that measures."""

    length: int
    depth: float
    score: float
    said: str


def survey(
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
    """A cell for every length and depth; by default eight lengths up to the model's context, as chat where it can.

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
    longest = int(min(limit, LONGEST)) if lengths is None else max(lengths)
    haystack = Haystack.of(tokenizer, text, needle, longest, chat)
    new = (
        2 * len(haystack.answer)
        if max_new_tokens is None
        else whole_number("max_new_tokens", max_new_tokens, min_value=1)
    )
    room = max(new, len(haystack.answer))
    if lengths is None:
        least = haystack.least + 1
        most = longest - room
        lengths = sorted({max(least, round(most * i / 8)) for i in range(1, 9)})
    if max(lengths) + room > limit:
        raise InputError(f"{max(lengths)} tokens and {room} of the answer: the model's context is {limit}")
    if not all(0 <= depth <= 1 for depth in depths):
        raise InputError("depths must be from 0 to 100 percent")
    reader = Reader(model, tokenizer, needle, haystack, new, prefill_chunk_size, cache_dtype)
    cells = []
    for length in lengths:
        cells += [Cell(length, depth, *SCORES[score](reader, haystack.prompt(length, depth))) for depth in depths]
        mean = np.mean([cell.score for cell in cells if cell.length == length])
        print(f"{length:,} tokens: {score} {mean:.2f}", file=sys.stderr, flush=True)
    return cells


def grid(cells: Sequence[Cell]) -> tuple[list[int], list[float], np.ndarray]:
    """The lengths, the depths, and the scores [depths lengths]."""
    lengths = sorted({cell.length for cell in cells})
    depths = sorted({cell.depth for cell in cells})
    scores = np.full((len(depths), len(lengths)), math.nan)
    for cell in cells:
        scores[depths.index(cell.depth), lengths.index(cell.length)] = cell.score
    return lengths, depths, scores


def table(cells: Sequence[Cell]) -> str:
    """Markdown, a row for each depth, a column for each length."""
    lengths, depths, scores = grid(cells)
    lines = [["depth", *(f"{length:,}" for length in lengths)], ["---:"] * (1 + len(lengths))]
    lines += [[f"{depth:.0%}", *(f"{x:.2f}" for x in row)] for depth, row in zip(depths, scores, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(cells: Sequence[Cell], title: str, path: Path) -> None:
    """Depth against length, from red, for 0, to green, for 1 or more where there is more."""
    lengths, depths, scores = grid(cells)
    with axes(path, 2.5 + 0.8 * len(lengths), 1.5 + 0.4 * len(depths)) as plot:
        most = max(1, scores.max())
        image = plot.imshow(scores, cmap="RdYlGn", vmin=0, vmax=most, aspect="auto")
        for (row, column), score in np.ndenumerate(scores):
            colour = "black"
            if not 0.15 < score / most < 0.85:
                colour = "white"
            plot.text(column, row, f"{score:.2f}", ha="center", va="center", fontsize=8, color=colour)
        plot.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths])
        plot.set_yticks(range(len(depths)), [f"{depth:.0%}" for depth in depths])
        plot.set(xlabel="tokens of the context", ylabel="depth of the needle", title=title)
        plot.figure.colorbar(image)


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments."""
    summary, _, details = (__doc__ or "").partition("\n")
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=summary, epilog=details.strip(), formatter_class=raw)
    add_model_arguments(parser)
    parser.add_argument("--score", choices=SCORES, default="recall", help="what is drawn (recall)")
    parser.add_argument("--lengths", type=int, nargs="+", metavar="N", help="tokens (eight, up to the model's context)")
    parser.add_argument("--depths", type=float, nargs="+", metavar="PERCENT", default=range(0, 101, 10))
    for name, default in Needle()._asdict().items():
        parser.add_argument(f"--{name}", default=default, help=f"({default.strip()})")
    parser.add_argument("--haystack", type=Path, default=TEXT, help="a text file (scenes of Shakespeare's)")
    parser.add_argument(
        "--chat", action=argparse.BooleanOptionalAction, help="ask by the chat template, if there is one"
    )
    parser.add_argument("--max-new-tokens", type=int, help="twice the answer's, if not given")
    parser.add_argument("--prefill-chunk-size", type=int, default=PREFILL_CHUNK, help=f"({PREFILL_CHUNK})")
    parser.add_argument("--cache-dtype", choices=DTYPES, help="what keys and values are kept in (the model's own)")
    parser.add_argument(
        "--out", type=Path, default="needle_in_haystack.png", help="the picture; a .json goes beside it"
    )
    return parser.parse_args(words)


@mistakes("needle_in_haystack")
def main(words: Sequence[str] | None = None) -> None:
    arguments = parsed(words)
    require_drawing(arguments.out)
    needle = Needle(*(getattr(arguments, name) for name in Needle._fields))
    text = read_text(arguments.haystack)
    depths = [percent / 100 for percent in arguments.depths]
    names = ("score", "lengths", "chat", "max_new_tokens", "prefill_chunk_size", "cache_dtype")
    model, tokenizer = load_model(arguments)
    asked = {name: getattr(arguments, name) for name in names}
    cells = survey(model, tokenizer, needle, text, depths=depths, **asked)
    print(table(cells))
    found = {
        "model": arguments.model or "demo",
        **asked,
        **needle._asdict(),
        "cells": [cell._asdict() for cell in cells],
    }
    arguments.out.with_suffix(".json").write_text(json.dumps(found, indent=1))
    title = f"{Path(found['model']).name}: {arguments.score}, {np.mean([cell.score for cell in cells]):.2f} on average"
    draw(cells, title, arguments.out)


if __name__ == "__main__":
    main()
