"""Text from the demo model: streamed it is what it is whole, stop strings end it, characters are never split."""

import itertools
from typing import Any

import pytest

import jaxllm
from jaxllm import InputError
from jaxllm.paths import DEMO

WILD = {"temperature": 8.0, "seed": 5, "max_new_tokens": 120}  # nearly random bytes: many broken characters


@pytest.fixture(scope="module")
def demo():
    return jaxllm.load(DEMO)


def stream(demo, prompt, **options):
    return list(jaxllm.stream_generate(demo[0], demo[1], prompt, **options))


def generate(demo, prompts, **options) -> Any:
    return jaxllm.generate(demo[0], demo[1], prompts, **options)


@pytest.mark.parametrize("options", [{"max_new_tokens": 50}, WILD], ids=["greedy", "wild"])
def test_streamed_is_whole(demo, options):
    model, tokenizer = demo
    pieces = stream(demo, "ROMEO:", **options)
    text = "".join(piece.text for piece in pieces)
    assert text == generate(demo, "ROMEO:", **options)
    assert text == tokenizer.decode([piece.token for piece in pieces])
    assert [piece.token for piece in pieces] == jaxllm.generate_tokens(
        model, [tokenizer.encode("ROMEO:")], eos_token_id=model.config.eos_token_ids, **options
    )[0]
    assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + ["length"]
    assert [piece.generated_tokens for piece in pieces] == list(range(1, len(pieces) + 1))
    assert all(a.seconds <= b.seconds for a, b in itertools.pairwise(pieces))


def test_characters_are_never_split(demo):
    _, tokenizer = demo
    prompt = tokenizer.encode("né ☂ 🙂")[:-2]  # ends within a character of four bytes
    pieces = stream(demo, prompt, **WILD)
    text, known = "", tokenizer.decode(prompt[:-2])
    for count, piece in enumerate(pieces, 1):
        text += piece.text
        whole = tokenizer.decode([*prompt, *(other.token for other in pieces[:count])])
        assert whole.removeprefix(known).removesuffix("\ufffd").startswith(text.removesuffix("\ufffd"))
    assert known + text == tokenizer.decode([*prompt, *(piece.token for piece in pieces)])


def test_stop_strings(demo):
    whole = generate(demo, "ROMEO:", max_new_tokens=60)
    middle = whole[30:37]  # across several tokens
    for stop in (middle, [middle, "never said"], ["~", middle[:3] + "~", middle]):
        expected = whole[: whole.index(middle)]
        assert generate(demo, "ROMEO:", max_new_tokens=60, stop=stop) == expected
        pieces = stream(demo, "ROMEO:", max_new_tokens=60, stop=stop)
        assert "".join(piece.text for piece in pieces) == expected
        assert pieces[-1].finish_reason == "stop"
    held = whole[-3:] + "never"  # begun at the end, but not said
    assert generate(demo, "ROMEO:", max_new_tokens=60, stop=held) == whole


def test_end_tokens_end_text(demo):
    pieces = stream(demo, "ROMEO:", max_new_tokens=40)
    end = pieces[10].token
    first = next(index for index, piece in enumerate(pieces) if piece.token == end)
    ended = stream(demo, "ROMEO:", max_new_tokens=40, eos_token_id=[end])
    assert len(ended) == first + 1
    assert ended[-1].finish_reason == "stop"


def test_a_batch_gives_each_prompt_what_it_gives_alone(demo):
    prompts = ["ROMEO:", "What light through yonder window breaks?\n", "O"]
    together = generate(demo, prompts, max_new_tokens=40, stop="\n\n")
    assert together == [generate(demo, prompt, max_new_tokens=40, stop="\n\n") for prompt in prompts]


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([1, 2], {}, "prompts must be text"),
        ("", {}, "prompt 0 is empty"),
        ("x", {"stop": [""]}, "stop="),
        ("x", {"stop": [3]}, "stop="),
        ("x", {"max_tokens": 3}, "unknown option 'max_tokens'; did you mean max_new_tokens"),
    ],
)
def test_bad_requests_are_named(demo, prompt, options, message):
    with pytest.raises(InputError, match=message):
        generate(demo, prompt, **options)


def test_without_a_tokenizer_there_is_no_text(demo):
    with pytest.raises(InputError, match="without a tokenizer"):
        jaxllm.generate(demo[0], None, "x")
