"""Needles in haystacks: the prompts are what they are said to be, and the map shows what a model can do."""

import json

import numpy as np
import pytest

import jaxllm
from jaxllm.errors import InputError
from jaxllm.paths import DEMO
from scripts import needle_in_haystack
from scripts.haystack import Haystack, Needle
from scripts.needle_in_haystack import DEFAULT_HAYSTACK, evaluate_grid, markdown_table, score_grid
from tests import quick
from tests.induction import induction_model

KEY = Needle("The pass key is #739.", "What is the pass key?", "The pass key is #", "739")
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


@pytest.fixture(scope="module")
def tokenizer():
    return jaxllm.load_tokenizer(DEMO)


@pytest.mark.parametrize("chat", [False, True])
def test_prompts(tokenizer, chat):
    """Of the length asked for, with the whole fact at its depth, after a sentence, and the question at the end."""
    haystack = Haystack.from_text(
        tokenizer, DEFAULT_HAYSTACK.read_text("utf-8"), Needle(), 15_000, chat
    )  # longer than the text
    for length in (haystack.min_length, 200, 15_000):
        for depth in DEPTHS:
            prompt = haystack.prompt(length, depth)
            before, found, after = tokenizer.decode(prompt).partition(f"\n{Needle().fact}\n")
            assert len(prompt) == length
            assert found
            assert after.endswith(Needle().answer_prefix)
            assert not before or depth == 1 or before.rstrip(" ").endswith((".", "!", "?", "\n"))
            hay = length - haystack.min_length
            assert depth * hay - 100 < len(tokenizer.encode(before)) - len(haystack.prefix) <= depth * hay + 2
        assert len(haystack.prompt_without_needle(length)) == length
    assert tokenizer.decode(haystack.answer_tokens) == Needle().answer
    with pytest.raises(InputError, match="alone are"):
        haystack.prompt(haystack.min_length - 1, 0.5)


@pytest.fixture
def quick_reading(monkeypatch, quick_generation):
    """Programs that compile in little time, for what the scripts read too."""
    for name in ("new_cache", "prefill_chunk"):
        monkeypatch.setattr("scripts.haystack." + name, getattr(quick, name))


@pytest.mark.usefixtures("quick_reading")
@pytest.mark.parametrize(("score", "cache_dtype"), [("recall", None), ("accuracy", None), ("accuracy", "int8")])
def test_map_of_a_model_that_sees_a_window(tokenizer, score, cache_dtype):
    """It finds a key in the last 300 tokens, always, and never one before them: so says every cell."""
    window, lengths, text = 300, (150, 320, 1000), DEFAULT_HAYSTACK.read_text("utf-8")
    model, options = induction_model(tokenizer.vocab_size, window, 4096), {"prefill_chunk_size": 128, "chat": False}
    cells = evaluate_grid(
        *(model, tokenizer, KEY, text),
        **{"score": score, "lengths": lengths, "depths": DEPTHS, "cache_dtype": cache_dtype, **options},
    )
    haystack, (sign,) = Haystack.from_text(tokenizer, text, KEY, 1000, chat=False), tokenizer.encode("#")
    visible = [[haystack.prompt(n, depth).index(sign) + 1 >= n - window for n in lengths] for depth in DEPTHS]
    assert 0 < np.mean(visible) < 1
    np.testing.assert_array_equal(score_grid(cells)[2], visible)


@pytest.mark.usefixtures("quick_reading")
def test_gain_is_that_of_the_needle(tokenizer):
    """A needle within the window makes its answer likelier; one before it does not, with a model so sure of others."""
    model = induction_model(tokenizer.vocab_size, 100, 4096)
    how = {"score": "gain", "lengths": [300], "depths": [0.0, 1.0], "chat": False}
    far, near = evaluate_grid(model, tokenizer, KEY, DEFAULT_HAYSTACK.read_text("utf-8"), **how)
    assert far.score < 0 < 30 < near.score


@pytest.mark.usefixtures("quick_generation")
def test_on_the_demo(tmp_path, capsys):
    """From the command line: a table, what was said in each place, and a picture."""
    pytest.importorskip("matplotlib")
    words = ["--lengths", "80", "160", "--depths", "0", "100", "--max-new-tokens", "4", "--dtype", "float32"]
    needle_in_haystack.main([*words, "--out", str(tmp_path / "map.png")])
    written = json.loads((tmp_path / "map.json").read_text())
    cells = [needle_in_haystack.Cell(**cell) for cell in written["cells"]]
    assert [(cell.length, cell.depth) for cell in cells] == [(80, 0), (80, 1), (160, 0), (160, 1)]
    assert all(cell.detail for cell in cells)
    assert markdown_table(cells) in capsys.readouterr().out
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_refusals(tokenizer):
    model, text = induction_model(tokenizer.vocab_size, 100, 512), DEFAULT_HAYSTACK.read_text("utf-8")
    with pytest.raises(InputError, match="context is 512"):
        evaluate_grid(model, tokenizer, KEY, text, lengths=[512], depths=[0.5])
    with pytest.raises(InputError, match="0 to 100 percent"):
        evaluate_grid(model, tokenizer, KEY, text, lengths=[300], depths=[50])
    with pytest.raises(InputError, match="empty"):
        evaluate_grid(model, tokenizer, KEY, " \n", depths=[0.5])
    for given in ({"needle": KEY._replace(answer="...")}, {"prefill_chunk_size": 0}, {"max_new_tokens": 0}):
        how = {"needle": KEY, "lengths": [300], "depths": [0.5], **given}
        (name,) = given
        with pytest.raises(InputError, match="answer=" if name == "needle" else f"{name}=0"):
            evaluate_grid(model, tokenizer, how.pop("needle"), text, **how)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "no/such/place.png"], "no/such/place.png: cannot be written"),
        (["--out", "map.json"], "map.json: must be a PNG file"),
        (["--haystack", str(DEMO)], "demo"),
        (["--lengths", "5"], "5 tokens: the needle and its question alone"),
    ],
)
def test_mistakes_cost_a_line(capsys, tmp_path, monkeypatch, words, message):
    """Before the work, whose results would have no place to go."""
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as error:
        needle_in_haystack.main(words)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "bundled demo" not in line]
    assert error.value.code == 2
    assert line.startswith("needle_in_haystack: ")
    assert message in line
    assert not list(tmp_path.iterdir())
