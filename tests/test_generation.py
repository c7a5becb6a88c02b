"""The cached, chunked, compiled loop gives what a naive loop without a cache gives, and text comes out whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxllm
from conversion import convert
from jaxllm import InputError
from jaxllm.checkpoint import restore
from jaxllm.generation.decode import DECODE_CHUNK, bucket
from jaxllm.generation.options import GenerationOptions
from jaxllm.generation.sampling import Sampler
from jaxllm.generation.tokens import generate_steps
from tests import quick

PROMPTS = [[5, 17, 33, 2, 9, 60, 61], [7], [90, 3, 3]]
forward = quick.jit(lambda model, tokens: model(tokens))


@pytest.fixture(scope="module")
def model(checkpoint_of, tmp_path_factory):
    return restore(convert(checkpoint_of("mistral"), tmp_path_factory.mktemp("native") / "model"))


def naive(model, prompt, count, row=0, seed=0, **settings):
    """The oracle: the whole row anew for each token, no cache, no chunks, no padding to buckets but the last."""
    sampler, tokens = Sampler.of(GenerationOptions.of(**settings)), list(prompt)
    key = jax.random.fold_in(jax.random.key(seed), row)
    for step in range(count):
        padded, seen = np.zeros((1, 64), np.int32), np.zeros((1, model.config.vocab_size), bool)
        padded[0, : len(tokens)], seen[0, tokens] = tokens, True
        logits = np.asarray(forward(model, padded))[:, len(tokens) - 1]  # by NumPy: no program for each length
        keys = jax.random.fold_in(key, step)[None]
        tokens.append(int(sampler.next_token(jnp.asarray(logits), jnp.asarray(seen), keys)[0]))
    return tokens[len(prompt) :]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"repetition_penalty": 1.7},
        {"temperature": 0.9},
        {"temperature": 1.3, "top_k": 20, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.2},
    ],
    ids=lambda settings: "-".join(settings) or "greedy",
)
def test_equals_the_naive_loop_on_a_ragged_batch(model, settings):
    count = 2 * DECODE_CHUNK + 3  # ends in the middle of a chunk
    ours = jaxllm.generate_tokens(model, PROMPTS, max_new_tokens=count, seed=3, **settings)
    assert ours == [naive(model, p, count, row, seed=3, **settings) for row, p in enumerate(PROMPTS)]
    assert ours[0] == jaxllm.generate_tokens(model, PROMPTS[:1], max_new_tokens=count, seed=3, **settings)[0]
    if "temperature" in settings:
        assert ours != jaxllm.generate_tokens(model, PROMPTS, max_new_tokens=count, seed=4, **settings)


def test_ends_at_end_tokens_limits_and_context(model):
    free = jaxllm.generate_tokens(model, PROMPTS, max_new_tokens=40)
    ends = [free[0][4], free[2][20]]
    ended = jaxllm.generate_tokens(model, PROMPTS, max_new_tokens=40, eos_token_id=ends)
    for row, whole in zip(ended, free, strict=True):
        first = min((whole.index(end) for end in ends if end in whole), default=39)
        assert row == whole[: first + 1]  # the end token is the last one
    long = [[1] * 120, [2, 3]]
    assert [len(row) for row in jaxllm.generate_tokens(model, long, max_new_tokens=30)] == [8, 30]  # a context of 128


def test_cache_grows_with_the_text(model, monkeypatch):
    """With little room to begin with, a long generation gives what it gives with all the room at once."""
    whole = jaxllm.generate_tokens(model, PROMPTS, max_new_tokens=120)
    monkeypatch.setattr("jaxllm.generation.tokens.INITIAL_CAPACITY", 16)
    assert jaxllm.generate_tokens(model, PROMPTS, max_new_tokens=120) == whole


def test_numbers_of_any_library(model):
    options = {"max_new_tokens": np.int64(3), "temperature": np.float32(0.7), "seed": np.int32(1), "top_k": np.int64(5)}
    found = jaxllm.generate_tokens(model, list(np.array([[1, 2]])), **options)
    assert found == jaxllm.generate_tokens(model, [(1, 2)], max_new_tokens=3, temperature=0.7, seed=1, top_k=5)
    assert len(found[0]) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2, 3],), r"tokens: int32\[3\], expected integers \[B T\]"),
        (([[1.0]],), r"tokens: float32\[1, 1\], expected integers"),
        (([[1, 2]], [1, 2]), r"lengths: int32\[2\], expected integers \[1\]"),
    ],
)
def test_bad_calls_are_named(model, arguments, message):
    with pytest.raises(InputError, match=message):
        model(*arguments)


def test_ids_outside_the_vocabulary_give_no_numbers(model):
    assert np.isnan(model(jnp.array([[5, -1]]))[0, 1]).all()
    assert np.isnan(model(jnp.array([[5, 101]]))[0, 1]).all()


def test_the_shortest_generations(model):
    first = jaxllm.generate_tokens(model, PROMPTS, max_new_tokens=1)
    assert first == [row[:1] for row in jaxllm.generate_tokens(model, PROMPTS, max_new_tokens=5)]
    assert [len(row) for row in jaxllm.generate_tokens(model, [[1] * 127, [2]])] == [1, 127]  # a context of 128


def test_log_probabilities_are_the_models_own(model):
    found = list(generate_steps(model, PROMPTS[:1], max_new_tokens=5, temperature=2.0, top_k=5, seed=0))
    row = [*PROMPTS[0], *(int(step.token[0]) for step in found)]
    expected = jax.nn.log_softmax(model(jnp.array([row]))[0])
    for at, step in enumerate(found, len(PROMPTS[0])):
        assert step.logprob[0] == pytest.approx(float(expected[at - 1, row[at]]), abs=1e-4)


@pytest.mark.parametrize(
    ("prompts", "settings", "message"),
    [
        ([], {}, "prompts: the list is empty"),
        ([[1.5, 2.9]], {}, "prompt 0: must be a sequence of token ids"),
        ([1, 2], {}, "prompt 0: must be a sequence of token ids"),
        (["abc"], {}, "prompt 0: must be a sequence of token ids"),
        ([[1]], {"eos_token_id": np.array(1.5)}, "eos_token_id=.*: must be a whole number"),
        ([[1]], {"temprature": 1.0}, "unknown option 'temprature'; did you mean temperature"),
        ([[1]], {"temperature": 1e-39}, "temperature=1e-39: must be 0"),
        ([[1]], {"seed": 2**32}, "seed=4294967296: must be from 0"),
        ([[1]], {"temperature": 1.0, "top_k": 2**40}, "top_k=1099511627776: must be"),
        ([[1]], {"temperature": "hot"}, "temperature='hot': must be a number"),
        ([[1]], {"eos_token_id": "</s>"}, "eos_token_id=.*: must be a whole number"),
        ([[1], []], {}, "prompt 1 is empty"),
        ([[1] * 128], {}, "prompt 0 has 128 tokens, expected fewer than the model's maximum of 128"),
        ([[1, 101]], {}, "token 101 is outside the model's vocabulary of 101"),
        ([[-1]], {}, "token -1 is outside"),
        ([[1]], {"max_new_tokens": 0}, "max_new_tokens=0"),
        ([[1]], {"temperature": -1.0}, "temperature=-1.0"),
        ([[1]], {"temperature": float("nan")}, "temperature=nan"),
        ([[1]], {"temperature": 1.0, "top_p": 1.5}, "top_p=1.5"),
        ([[1]], {"temperature": 1.0, "top_k": -2}, "top_k=-2"),
        ([[1]], {"temperature": 1.0, "top_k": 2.5}, r"top_k=2\.5"),
        ([[1]], {"repetition_penalty": 0.0}, r"repetition_penalty=0\.0: must be at least 1e-06"),
        ([[1]], {"seed": "x"}, "seed='x'"),
    ],
)
def test_bad_requests_are_named(model, prompts, settings, message):
    with pytest.raises(InputError, match=message):
        jaxllm.generate_tokens(model, prompts, **settings)


def test_buckets_waste_little_and_are_few():
    sizes = {bucket(size, least=16) for size in range(1, 4097)}
    assert all(size <= bucket(size, 16) <= max(16, 1.25 * size + 1) for size in range(1, 4097))
    assert len(sizes) <= 4 * 8 + 1


@pytest.mark.torch
def test_filters_are_transformers_warpers():
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers").generation.logits_process
    random = np.random.default_rng(0)
    logits = (3 * random.standard_normal((6, 500))).astype(np.float32)
    ids = random.integers(0, 500, (6, 9))
    seen = np.zeros(logits.shape, bool)
    np.put_along_axis(seen, ids, True, axis=1)
    chain = [
        ({"repetition_penalty": 1.4}, process.RepetitionPenaltyLogitsProcessor(1.4)),
        ({"temperature": 0.7}, process.TemperatureLogitsWarper(0.7)),
        ({"top_k": 50}, process.TopKLogitsWarper(50)),
        ({"top_p": 0.8}, process.TopPLogitsWarper(0.8)),
        ({"min_p": 0.05}, process.MinPLogitsWarper(0.05)),
    ]
    settings, expected = {}, torch.tensor(logits)
    for setting, warper in chain:
        settings |= setting
        expected = warper(torch.tensor(ids), expected)
        if "temperature" in settings:
            ours = Sampler.of(GenerationOptions.of(**settings)).filtered(jnp.array(logits), jnp.array(seen))
            np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-5)
