"""`jaxllm doctor --kernels` tells right kernels from wrong ones, survives what they do; what it proves is chosen."""

import json
import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import pytest

from jaxllm import diagnosis
from jaxllm.cli import main
from jaxllm.kernels import attention
from jaxllm.kernels.attention import Kernel, select_kernel
from jaxllm.kernels.blockwise import blockwise
from jaxllm.kernels.call import AttentionCall, Device
from jaxllm.kernels.cases import CASES, EVERYTHING, Case
from jaxllm.kernels.comparison import compare, supported_cases
from jaxllm.kernels.isolation import SubprocessError, run_in_subprocess
from jaxllm.kernels.spec import AttentionSpec
from jaxllm.kernels.target import _key, target, target_of

ROOT = Path(__file__).resolve().parents[1]
FEW = (
    Case("prefill", 40, 40, head_dim=16, window=9, batch=2, lengths=(40, 7), offsets=(0, -3), sinks=True),
    Case("decode", 1, 70, head_dim=16, offsets=(50,)),
)


def never(request, device):
    return None


def only_decode(request, device):
    return None if request.queries == 1 else "prefill"


def always(request, device):
    return "not today"


def off(inputs, scores):
    """Wrong by one key: each row sees one more than its length says."""
    return blockwise(inputs._replace(lengths=None if inputs.lengths is None else inputs.lengths + 1), scores)


def died(inputs, scores):
    os._exit(7)


def slow():
    time.sleep(60)
    yield 1


def run(capsys, *words):
    code = main(["doctor", *words])
    return code, capsys.readouterr().out


@pytest.fixture
def few(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXLLM_CACHE", str(tmp_path))
    monkeypatch.setattr(diagnosis, "validate_kernels", partial(diagnosis.validate_kernels, FEW))


def test_right_kernels_are_remembered_and_chosen(few, capsys, monkeypatch):
    kernels = {
        "refusing": Kernel("cpu", blockwise, always),
        "wrong": Kernel("cpu", off, never),
        "lucky": Kernel("cpu", off, only_decode),  # right in all that it accepts
        "raising": Kernel("cpu", len, never),  # pyright: ignore[reportArgumentType]
        "dying": Kernel("cpu", died, never),
        "elsewhere": Kernel("tpu", blockwise, never),
    }
    monkeypatch.setattr(attention, "KERNELS", kernels)
    monkeypatch.setattr(diagnosis, "KERNELS", kernels)
    prefill, decode = (AttentionCall.of(case.shapes("float32"), case.spec) for case in FEW)
    assert "not yet compared on this device" in select_kernel(decode, target().device, target().validated).reason
    code, out = run(capsys, "--kernels", "--json")
    report = json.loads(out)
    found = report["kernels"]
    assert (code, report["validated"], list(found)) == (1, ["lucky"], list(kernels)[:-1])
    assert [found[name]["passed"] for name in found] == [False, False, True, False, False]
    assert found["refusing"]["accepted"] == 0
    assert {row["case"] for row in found["wrong"]["failed"]} == {"prefill"}
    assert found["raising"]["failed"][0]["failure"].startswith("TypeError: len() takes exactly one argument")
    assert found["dying"]["ended"] == "prefill, float32: the process died (exit code 7)"
    assert target().validated == {"lucky"}
    prefill, decode = (select_kernel(request, target().device, target().validated) for request in (prefill, decode))
    assert decode.kernel == "lucky"
    assert prefill.kernel == "reference"
    assert "lucky: prefill; " in prefill.reason
    assert "validated kernels  cpu: lucky" in run(capsys)[1]


def test_giving_up_is_not_called_wrong(few, capsys, monkeypatch):
    monkeypatch.setattr(diagnosis, "KERNELS", {"dying": Kernel("cpu", died, never)})
    code, out = run(capsys, "--kernels")
    assert code == 1
    assert "dying: given up at prefill, float32: the process died (exit code 7) validated" in " ".join(out.split())


def test_without_a_kernel_of_its_own(few, capsys, tmp_path):
    code, out = run(capsys, "--kernels")
    assert code == 0
    assert "blockwise: equals the reference in all 6 calls that it accepts" in " ".join(out.split())
    assert "no kernel is written for cpu" in out
    assert not (tmp_path / "kernels.json").exists()


@pytest.mark.parametrize("content", ["[", "[]", '{"KEY": 5}', '{"KEY": "flash"}', '{"KEY": [["flash"]]}', "[" * 10_000])
def test_what_is_remembered_may_be_broken(few, tmp_path, content):
    (tmp_path / "kernels.json").write_text(content.replace("KEY", _key(Device("cpu"))))
    assert target_of(Device("cpu")).validated == frozenset()


def test_what_cannot_be_remembered_is_said_before_the_work(few, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("JAXLLM_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(diagnosis, "KERNELS", {"dying": Kernel("cpu", died, never)})
    monkeypatch.setattr(diagnosis, "compare_cases", None)
    assert main(["doctor", "--kernels"]) == 2
    assert "kernels.json: cannot be written" in capsys.readouterr().err


def test_hanging_is_told():
    began = time.monotonic()
    with pytest.raises(SubprocessError, match=r"no answer in 0\.5 s"):
        list(run_in_subprocess(slow, limit=0.5))
    assert time.monotonic() - began < 30


def test_one_key_too_many_is_found():
    """In bfloat16 too, and out of hundreds."""
    assert compare(EVERYTHING, "bfloat16", blockwise).passed
    assert compare(EVERYTHING, "bfloat16", off).excess > 1


def test_only_kernels_that_say_so_may_round_logarithms():
    def rounded(inputs, scores):
        made = blockwise(inputs, scores)
        return made._replace(lse=made.lse.astype(jnp.bfloat16).astype(jnp.float32))

    assert compare(EVERYTHING, "bfloat16", rounded).excess > 1
    assert compare(EVERYTHING, "bfloat16", rounded, rounds_lse=True).passed
    assert not compare(EVERYTHING, "bfloat16", off, rounds_lse=True).passed


def test_cases_are_calls_that_models_make():
    """In all dtypes, each by another name, and with heads and features that kernels could refuse."""
    pairs = supported_cases(Kernel("cpu", blockwise, never), Device("cpu"))
    assert len(pairs) == 3 * len({case.name for case in CASES}) == 3 * len(CASES)
    assert {case.head_dim for case in CASES} >= {64, 80, 96, 128, 192, 256}
    assert {case.heads // case.kv_heads for case in CASES} >= {1, 4, 7, 8}


def test_table_of_who_serves_what():
    """What the page on attention shows is what is chosen where all kernels are validated."""
    devices = {"CPU": Device("cpu"), "TPU": Device("tpu")}
    devices |= {
        name: Device("cuda", name, at) for name, at in {"Ampere": 8.0, "Hopper": 9.0, "Blackwell": 10.0}.items()
    }
    rows = [["Call", *devices], ["---"] * (1 + len(devices))]
    for call, request in diagnosis.CALLS.items():
        chosen = (select_kernel(request, device, frozenset(attention.KERNELS)) for device in devices.values())
        rows.append([call, *(f"`{kernel}`" for kernel, _ in chosen)])
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    assert table in (ROOT / "docs" / "attention.md").read_text("utf-8"), table


AMPERE, ADA, HOPPER, BLACKWELL = (
    Device("cuda", f"sm {capability}", capability) for capability in (8.0, 8.9, 9.0, 10.0)
)
CALL = AttentionCall(1, 4096, 4096, 32, 8, 128, 128, jnp.dtype(jnp.bfloat16), AttentionSpec(1.0))
STUBS = {
    "ours": Kernel("cuda", blockwise, lambda _, device: None if device.capability >= 9 else "Hopper or newer"),
    "theirs": Kernel("cuda", blockwise, lambda request, _: "soft caps" if request.spec.softcap else None),
    "on TPUs": Kernel("tpu", blockwise, never),
}


@pytest.mark.parametrize(
    ("device", "softcap", "validated", "kernel", "reason"),
    [
        (Device("cpu"), None, STUBS, "blockwise", "scores are computed block by block"),
        (AMPERE, None, STUBS, "theirs", "ours: Hopper or newer; equals the reference on this sm 8.0"),
        (ADA, 50.0, STUBS, "blockwise", "ours: Hopper or newer; theirs: soft caps; scores are computed block by block"),
        (HOPPER, None, STUBS, "ours", "equals the reference on this sm 9.0"),
        (HOPPER, None, {"theirs"}, "theirs", "ours: not yet compared on this device (jaxllm doctor --kernels); equals"),
        (BLACKWELL, 50.0, STUBS, "ours", "equals"),
        (BLACKWELL, None, set(), "blockwise", "ours: not yet compared"),
        (Device("tpu", "TPU v5 lite"), 50.0, STUBS, "on TPUs", "equals the reference on this TPU v5 lite"),
        (Device("rocm"), None, STUBS, "blockwise", "scores are computed block by block"),
    ],
)
def test_choice(monkeypatch, device, softcap, validated, kernel, reason):
    monkeypatch.setattr(attention, "KERNELS", STUBS)
    found = select_kernel(replace(CALL, spec=AttentionSpec(1.0, softcap=softcap)), device, frozenset(validated))
    assert found.kernel == kernel
    assert found.reason.startswith(reason)
