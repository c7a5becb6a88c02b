"""The cached, chunked, compiled loop gives what a naive loop without a cache gives, and text comes out whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxllm
from conversion import convert
from jaxllm import InputError
from jaxllm.checkpoint import restore
from jaxllm.generation.tokens import CHUNK, bucket, steps
from jaxllm.sampling import Sampler

PROMPTS = [[5, 17, 33, 2, 9, 60, 61], [7], [90, 3, 3]]
forward = jax.jit(lambda model, tokens: model(tokens))


@pytest.fixture(scope="module")
def model(checkpoint_of, tmp_path_factory):
    return restore(convert(checkpoint_of("mistral"), tmp_path_factory.mktemp("native") / "model"))


def naive(model, prompt, count, row=0, seed=0, **settings):
    """The oracle: the whole row anew for each token, no cache, no chunks, no padding to buckets but the last."""
    sampler, tokens = Sampler.of(**settings), list(prompt)
    key = jax.random.fold_in(jax.random.key(seed), row)
    for step in range(count):
        padded = np.zeros((1, 64), np.int32)
        padded[0, : len(tokens)] = tokens
        logits = forward(model, padded)[:, len(tokens) - 1]
        seen = jnp.zeros(logits.shape, bool).at[0, jnp.array(tokens)].set(True)
        tokens.append(int(sampler.next_token(logits, seen, jax.random.fold_in(key, step)[None])[0]))
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
    count = 2 * CHUNK + 3  # ends in the middle of a chunk
    ours = jaxllm.generate_tokens(model, PROMPTS, count, seed=3, **settings)
    assert ours == [naive(model, p, count, row, seed=3, **settings) for row, p in enumerate(PROMPTS)]
    assert ours[0] == jaxllm.generate_tokens(model, PROMPTS[:1], count, seed=3, **settings)[0]
    if "temperature" in settings:
        assert ours != jaxllm.generate_tokens(model, PROMPTS, count, seed=4, **settings)


def test_ends_at_end_tokens_limits_and_context(model):
    free = jaxllm.generate_tokens(model, PROMPTS, 40)
    ends = [free[0][4], free[2][20]]
    ended = jaxllm.generate_tokens(model, PROMPTS, 40, eos_token_id=ends)
    for row, whole in zip(ended, free, strict=True):
        first = min((whole.index(end) for end in ends if end in whole), default=39)
        assert row == whole[: first + 1]  # the end token is the last one
    long = [[1] * 120, [2, 3]]
    assert [len(row) for row in jaxllm.generate_tokens(model, long, 30)] == [8, 30]  # a context of 128


def test_log_probabilities_are_the_models_own(model):
    found = list(steps(model, PROMPTS[:1], 5, temperature=2.0, top_k=5, seed=0))
    row = [*PROMPTS[0], *(int(step.token[0]) for step in found)]
    expected = jax.nn.log_softmax(model(jnp.array([row]))[0])
    for at, step in enumerate(found, len(PROMPTS[0])):
        assert step.logprob[0] == pytest.approx(float(expected[at - 1, row[at]]), abs=1e-4)


@pytest.mark.parametrize(
    ("prompts", "settings", "message"),
    [
        ([], {}, "no prompts"),
        ([[1], []], {}, "prompt 1 is empty"),
        ([[1] * 128], {}, "prompt 0 has 128 tokens, but the model's context is 128"),
        ([[1, 101]], {}, "token 101 is outside the model's vocabulary of 101"),
        ([[-1]], {}, "token -1 is outside"),
        ([[1]], {"max_new_tokens": 0}, "max_new_tokens=0"),
        ([[1]], {"temperature": -1.0}, "temperature=-1.0"),
        ([[1]], {"temperature": float("nan")}, "temperature=nan"),
        ([[1]], {"temperature": 1.0, "top_p": 1.5}, "top_p=1.5"),
        ([[1]], {"temperature": 1.0, "top_k": -2}, "top_k=-2"),
        ([[1]], {"temperature": 1.0, "top_k": 2.5}, r"top_k=2\.5"),
        ([[1]], {"repetition_penalty": 0.0}, r"repetition_penalty=0\.0"),
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
            ours = Sampler.of(**settings).filtered(jnp.array(logits), jnp.array(seen))
            np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-5)
