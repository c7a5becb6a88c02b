"""The attention bench runs to its end wherever it is, and calls nothing fast that is wrong."""

import json
import math

import jax
import pytest

from jaxllm.kernels.attention import KERNELS
from jaxllm.kernels.blocks import BlockSizes
from jaxllm.kernels.blockwise import blockwise
from scripts import bench_attention, timing
from scripts.attention_programs import SWEEPS, Call, Sweep, implementations, ours
from scripts.timing import LOOPED, interleaved, sampler


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    few = {"head_dim": 16, "heads": 4, "kv_heads": 2}
    calls = [Call(1100, 1100, window=200, **few), Call(1, 1500, batch=2, **few)]
    monkeypatch.setattr(bench_attention, "CALLS", {"small": calls})
    monkeypatch.setattr(bench_attention, "LEAST", {"small": 0.0})


def run(tmp_path, *words):
    code = bench_attention.main(["--rounds", "1", "--output", str(tmp_path / "found.json"), *words])
    return code, json.loads((tmp_path / "found.json").read_text())


def test_every_implementation_has_its_line(tmp_path, capsys):
    code, found = run(tmp_path)
    assert (code, found["dtype"], found["device"], found["driver"]) == (0, "float32", "cpu", None)
    status = {"blockwise": "ok", "cuDNN": "failed", "XLA": "ok"}
    assert [(row["implementation"], row["status"]) for row in found["rows"]] == [*status.items()] * 2
    assert {row["unit"] for row in found["rows"] if row["status"] == "ok"} == {"TFLOP/s", "GB/s"}
    assert "cuDNN" in found["rows"][1]["reason"]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 6
    assert sum(" failed: " in line for line in lines) == 2


def test_wrong_is_not_fast(tmp_path, capsys, monkeypatch):
    """What leaves out the last block of a cache, or a key at the far end of a window, in 16 bits too."""

    def blind(inputs, scores):
        return blockwise(inputs._replace(offsets=None if inputs.offsets is None else inputs.offsets - 128), scores)

    def narrow(inputs, scores):
        if scores.window is None:
            return blockwise(inputs, scores)
        return blockwise(inputs, type(scores)(scores.scale, window=scores.window - 1))

    tried = {"blind": ours(blind), "narrow": ours(narrow)}
    monkeypatch.setattr(bench_attention, "implementations", lambda: tried)
    code, found = run(tmp_path, "--dtype", "bfloat16")
    status = {(row["call"].split()[0], row["implementation"]): row["status"] for row in found["rows"]}
    assert (code, status["prefill", "narrow"], status["decode", "blind"]) == (1, "wrong", "wrong")
    assert status["prefill", "blind"] == status["decode", "narrow"] == "ok"
    assert all(("rate" in row) == (row["status"] == "ok") for row in found["rows"])
    assert capsys.readouterr().out.count("WRONG: off by ") == 2


def test_sweep_prints_the_best_first(tmp_path, monkeypatch):
    sweep = Sweep(blockwise, "blocks", BlockSizes, {"queries": (64, 256), "keys": (128,)})
    monkeypatch.setattr(bench_attention, "SWEEPS", {"blockwise": sweep})
    _, found = run(tmp_path, "--sweep", "blockwise", "--only", "prefill")
    assert {row["implementation"] for row in found["rows"]} == {"queries=64 keys=128", "queries=256 keys=128"}
    assert [row["rate"] for row in found["rows"]] == sorted((row["rate"] for row in found["rows"]), reverse=True)


def test_work_is_what_the_mask_leaves():
    assert Call(4096, 4096).work(2) == (4e-12 * 32 * 128 * 4096**2 / 2, "TFLOP/s")
    assert Call(4096, 4096, window=4096).work(2) == Call(4096, 4096).work(2)
    assert Call(65536, 65536, window=64).work(2)[0] == pytest.approx(4e-12 * 32 * 128 * 65536 * 64, rel=1e-3)
    assert Call(1, 8192, batch=8).work(2) == (pytest.approx(8 * 2 * 8192 * 8 * 128 * 2e-9), "GB/s")


def test_short_programs_are_looped(monkeypatch):
    """By how often it is called on the device: in samples of one dispatch each."""
    monkeypatch.setattr(timing, "SHORT", 1e9)
    called = []

    def program(x):
        jax.debug.callback(lambda: called.append(1))
        return x

    taken = interleaved({"one": sampler(program, (jax.numpy.ones(2),), 0.0)}, 3)
    jax.effects_barrier()
    assert len(called) == 3 + 6 * LOOPED
    assert 0 < taken["one"].best <= taken["one"].median < 1


def test_ours_are_those_of_the_platform():
    assert list(implementations()) == ["blockwise", "cuDNN", "XLA"]


def test_every_kernel_with_tiles_can_be_swept():
    """All combinations, each by its own name; tiles without a field of that name would raise."""
    assert set(SWEEPS) == {"blockwise", *KERNELS} - {"cudnn"}
    assert {name: len(sweep.implementations()) for name, sweep in SWEEPS.items()} == {
        name: math.prod(map(len, sweep.options.values())) for name, sweep in SWEEPS.items()
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rounds", "0"], "rounds=0"),
        (["--only", "backward"], "only='backward': is in no name of prefill"),
        (["--output", "no/such/place.json"], "no/such/place.json: cannot be written"),
    ],
)
def test_mistakes_cost_a_line(capsys, words, message):
    with pytest.raises(SystemExit) as error:
        bench_attention.main(words)
    out, err = capsys.readouterr()
    assert (error.value.code, out, err.count("\n")) == (2, "", 1)
    assert message in err
