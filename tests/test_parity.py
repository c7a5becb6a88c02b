"""Logits and greedy tokens are PyTorch's, for every row of the matrix in `tiny.CASES`."""

import copy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from conversion import convert
from conversion.reference import Reference
from conversion.source import open_source
from conversion.verify import BOUNDS
from jaxllm import generate_tokens
from jaxllm.checkpoint import restore
from tests import quick, tiny

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.torch, pytest.mark.parametrize("case", tiny.CASES)]

LENGTHS = (23, 7, 1)
FIRST = {config["model_type"]: case for case, config in reversed(tiny.CASES.items())}
forward = quick.jit(lambda model, tokens, lengths: model(tokens, lengths))


@quick.jit
def prefill(model, tokens, lengths):
    states, cache = model.hidden(tokens, lengths, model.new_cache(len(tokens), capacity=40))
    return model.logits(states), cache


@quick.jit
def decode(model, tokens, cache):
    states, cache = model.hidden(tokens, cache=cache)
    return model.logits(states), cache


@pytest.fixture(scope="session")
def native(checkpoint_of, tmp_path_factory):
    made = {}

    def convert_once(case: str) -> Path:
        if case not in made:
            made[case] = convert(checkpoint_of(case), tmp_path_factory.mktemp("native") / case)
        return made[case]

    return convert_once


def reference(path: Path, dtype: str) -> Reference:
    """A new model each time: Transformers' dynamic rotary embedding remembers the longest row it has seen."""
    torch.set_num_threads(1)
    return Reference(open_source(path), dtype)


@pytest.mark.parametrize("dtype", BOUNDS)
def test_logits(case, dtype, native, checkpoint_of):
    path = checkpoint_of(case)
    tokens = np.random.default_rng(1).integers(0, tiny.CASES[case]["vocab_size"], (3, LENGTHS[0]), np.int32)
    theirs = [reference(path, dtype).states(row[None, :n])[0][0] for row, n in zip(tokens, LENGTHS, strict=True)]
    bound = BOUNDS[dtype] * max(np.abs(logits).max() for logits in theirs)
    with jax.enable_x64(dtype == "float64"):
        model = restore(native(case), dtype=dtype)
        lengths = jnp.array(LENGTHS, jnp.int32)
        ragged = forward(model, tokens, lengths)
        assert ragged.dtype == dtype
        alone = forward(model, np.repeat(tokens[:1], 3, axis=0), jnp.full(3, LENGTHS[0]))
        np.testing.assert_allclose(alone[0], theirs[0], rtol=0, atol=bound)
        for ours, expected in zip(ragged, theirs, strict=True):
            np.testing.assert_allclose(ours[: len(expected)], expected, rtol=0, atol=bound)
        if case not in tiny.CACHE_CHANGES_LOGITS:
            turns = model.config.layers.longrope_original_lengths
            check_cached(model, tokens, of_prefixes(path, dtype, tokens) if turns else theirs, bound)


def of_prefixes(path, dtype, tokens):
    """What PyTorch says at each position of a row that ends there: LongRoPE's logits depend on the row's length."""
    model = reference(path, dtype)
    return [
        np.stack([model.states(row[None, : end + 1])[0][0, -1] for end in range(n)])
        for row, n in zip(tokens, LENGTHS, strict=True)
    ]


def check_cached(model, tokens, theirs, bound):
    """Each row from a prefill of a third of it and single steps thereafter; finished rows idle along."""
    starts = np.array([max(1, len(logits) // 3) for logits in theirs], np.int32)
    logits, cache = prefill(model, tokens, starts)
    for row, start in enumerate(starts):
        np.testing.assert_allclose(logits[row, :start], theirs[row][:start], rtol=0, atol=bound)
    for step in range(8):
        at = np.minimum(starts + step, LENGTHS[0] - 1)
        logits, cache = decode(model, np.take_along_axis(tokens, at[:, None], axis=1), cache)
        for row, expected in enumerate(theirs):
            if at[row] < len(expected):
                np.testing.assert_allclose(logits[row, 0], expected[at[row]], rtol=0, atol=bound)


def test_names(case, checkpoint_of, tmp_path):
    """The names and shapes that Transformers itself saves; a head that is tied may be there or not."""
    settings = copy.deepcopy(tiny.CASES[case])  # Transformers writes into the objects it is given
    config = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    theirs = {name: array.shape for name, array in load_file(tmp_path / "model.safetensors").items()}
    ours = {name: array.shape for name, array in load_file(checkpoint_of(case) / "model.safetensors").items()}
    assert ours == theirs


def test_greedy_tokens(case, native, checkpoint_of, request):
    """By programs compiled as users have them for the first variant of each architecture."""
    if case not in FIRST.values():
        request.getfixturevalue("quick_generation")
    prompts = [np.random.default_rng(row).integers(0, 97, n).tolist() for row, n in enumerate(LENGTHS)]
    ours = generate_tokens(restore(native(case)), prompts, max_new_tokens=64)
    for prompt, new in zip(prompts, ours, strict=True):
        assert new == reference(checkpoint_of(case), "float32").greedy(prompt, 64)
