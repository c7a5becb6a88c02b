"""The demo model is what its card says: measured again here, by JAX, on the text that it never saw."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxllm
from jaxllm.paths import DEMO

TEXT = Path(__file__).resolve().parents[2] / "shared" / "data" / "text" / "tinyshakespeare.txt"
CARD = (DEMO / "README.md").read_text("utf-8")
STATED = float(re.findall(r"\*\*([\d.]+) nats per character\*\*", CARD)[0])


def test_it_is_small_and_good_enough():
    assert sum(file.stat().st_size for file in DEMO.iterdir()) <= 8_000_000
    assert STATED <= 1.65


@jax.jit
def losses(model, tokens):
    """Negative log-likelihoods in nats [B T] of all tokens [B T+1] but the first."""
    scores = jax.nn.log_softmax(model(tokens[:, :-1]))
    return -jnp.take_along_axis(scores, tokens[:, 1:, None], axis=-1)[..., 0]


@pytest.mark.skipif(not TEXT.is_file(), reason="the text of ../shared/data is not here")
def test_its_loss_is_the_stated_one():
    model, tokenizer = jaxllm.load(DEMO, dtype="float32")
    assert tokenizer is not None
    text = TEXT.read_text("utf-8")
    held_out = text[len(text) * 9 // 10 :]
    tokens = np.array([model.config.eos_token_ids[0], *tokenizer.encode(held_out)], np.int32)
    context, half = model.config.max_position_embeddings, model.config.max_position_embeddings // 2
    starts = range(0, len(tokens) - 1, half)
    windows = np.zeros((len(starts), context + 1), np.int32)
    for window, start in zip(windows, starts, strict=True):
        window[: len(tokens[start : start + context + 1])] = tokens[start : start + context + 1]
    found = np.concatenate([losses(model, windows[at : at + 16]) for at in range(0, len(windows), 16)])
    scored = [*found[0, :half], *found[:-1, half:].reshape(-1)]  # each token once, with the longest context it has
    nats = np.sum(scored[: len(tokens) - 1], dtype=np.float64) / len(held_out)
    assert nats == pytest.approx(STATED, abs=2e-3)
