"""The program: what it prints where, and that bad input costs one line and exit code 2."""

import io
import json
import os
import subprocess
import sys
import time

import pytest

import jaxllm
from jaxllm.cli import VERBS, main
from jaxllm.paths import DEMO


def run(capsys, *words: str):
    code = main(words)
    return code, *capsys.readouterr()


def test_generate_streams_text_and_reports_on_stderr(capsys):
    code, out, err = run(capsys, "generate", "ROMEO:", "-n", "20")
    assert code == 0
    assert out.strip()
    assert "using the bundled demo model" in err
    assert "generated_tokens 20" in err
    code, document, _ = run(capsys, "generate", str(DEMO), "-n", "20", "ROMEO:", "--json", "--mesh", "tensor=8")
    found = json.loads(document)
    assert found["text"] + "\n" == out  # the same on eight devices
    assert len(found["tokens"]) == found["generated_tokens"] == 20


def test_prompt_from_stdin_and_stop(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("ROMEO:"))
    code, out, _ = run(capsys, "generate", "-", "-n", "200", "--stop", r"\n\n", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["finish_reason"] == "stop"
    assert "\n\n" not in found["text"]


def test_chat_remembers(capsys, monkeypatch):
    prompts, stream = [], jaxllm.stream_generate

    def spy(model, tokenizer, prompt, **options):
        prompts.append(tokenizer.decode(prompt))
        return stream(model, tokenizer, prompt, **options)

    monkeypatch.setattr(jaxllm, "stream_generate", spy, raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO("Who art thou?\nSpeak again.\n\n"))
    code, out, _ = run(capsys, "chat", "-n", "12", "--stop", r"\n\n")
    assert code == 0
    first, second = prompts
    assert first == "JULIET:\nWho art thou?\n\nROMEO:\n"
    answer = second.removeprefix(first).removesuffix("\n\nJULIET:\nSpeak again.\n\nROMEO:\n")
    assert answer
    assert out.startswith(answer + "\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate"], "no prompt"),
        (["generate", "."], "is a directory; write the prompt behind it"),
        (["generate", "a", "b", "c"], "too many arguments: 'b'"),
        (["generate", "no/such/path", "hello"], "no/such/path"),
        (["generate", "x" * 5000], "fewer than the model's maximum of 512"),
        (["generate", ""], "empty"),
        (["generate", "hi", "--top-p", "7", "-t", "1"], "top_p=7.0"),
        (["generate", "hi", "--stop", ""], "stop="),
        (["generate", "hi", "--cache-dtype", "int4"], "cache_dtype='int4'"),
        (["generate", "hi", "--prefill-chunk-size", "0"], "prefill_chunk_size=0"),
        (["generate", "hi", "--prompt-cache", ""], "--prompt-cache ''"),
        (["generate", "hi", "--prompt-cache", "."], "is a directory"),
        (["doctor", "--limit", "3"], "--limit needs --kernels"),
        (["doctor", "--kernels", "--limit", "nan"], "limit=nan"),
        (["generate", "hi", "--mesh", "tensor=16"], "needs 16 devices"),
        (["generate", "hi", "--mesh", "tensor=3"], "cannot be split over tensor=3"),
        (["generate", "hi", "--mesh", "tensor"], "write AXIS=N"),
        (["generate", "hi", "--mesh", "width=2"], "write AXIS=N"),
        (["generate", "hi", "--dtype", "float31"], "must be float32"),
        (["convert", "no-such-dir/at/all", "x"], "no-such-dir/at/all"),
        (["convert", ".", "."], "exists already"),
        (["convert", str(DEMO)], "no target: name the directory to write, or ask for a --dry-run"),
        (["convert", str(DEMO), "--dry-run", "--dtype", "int4"], "dtype 'int4': must be float32"),
        (["convert", str(DEMO), ".", "--dry-run"], "exists already"),
        (["export", str(DEMO), "."], "exists already"),
        (["export", "no-such-dir/at/all", "x"], "no-such-dir/at/all"),
        (["export", str(DEMO), "no-such-dir/x", "--max-shard-size", "many"], "max_shard_size 'many'"),
        (["verify", "no-such-dir/at/all"], "no-such-dir/at/all"),
        (["plan", "lama 2 70b"], "published models of a name like it: Llama 2 70B"),
        (["plan", "gpt2", "--chip", "h1000"], "chip 'h1000' is not known; known: h100"),
        (["plan", "gpt2", "--memory", "much"], "memory 'much': must be a number of bytes"),
        (["plan", "gpt2", "--mesh", "tensor=16", "--devices", "8"], "needs 16 devices, but there are 8"),
        (["plan", "gpt2", "--mesh", "tensor=8"], "layers.0.attention.key.bias: 12 kv_heads cannot be split"),
        (["plan", "gpt2", "--dtype", "int3"], "dtype 'int3': must be float64"),
        (["plan", "gpt2", "--batch", "0"], "batch=0"),
        (["plan", "gpt2", "--devices", "0"], "devices=0"),
        (["convert", "~no-such-user/x", "y"], "~no-such-user/x"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, words, message):
    code, out, err = run(capsys, *words)
    assert code == 2
    assert out == ""
    lines = [line for line in err.splitlines() if "using the bundled demo" not in line]
    assert len(lines) == 1
    assert message in lines[0]


def test_the_demo_starts_in_time(tmp_path):
    """From a cold start, conversion and compilation included, and with both at hand."""
    for limit in (60, 10):
        began = time.perf_counter()
        environment = os.environ | {"JAXLLM_CACHE": str(tmp_path)}
        command = [sys.executable, "-m", "jaxllm", "generate", "To be, or not to be:"]
        result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert time.perf_counter() - began < limit
        assert len(result.stdout) > 300


def test_unknown_device_is_named():
    """In a process of its own: a platform can be chosen only before JAX has started."""
    command = [sys.executable, "-m", "jaxllm", "generate", "hi", "--device", "abacus"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "device abacus" in result.stderr
    assert "Traceback" not in result.stderr


def test_convert_and_doctor_speak_json(capsys, checkpoint_of, tmp_path):
    code, out, _ = run(capsys, "convert", str(checkpoint_of("llama")), str(tmp_path / "native"), "--json")
    assert (code, json.loads(out)["dtype"]) == (0, "float32")
    code, out, _ = run(capsys, "doctor", "--json")
    assert set(json.loads(out)) >= {"versions", "devices", "caches", "attention"}


def test_export_and_dry_run(capsys, checkpoint_of, tmp_path):
    """What is not native is converted on the way, into the cache."""
    words = ["export", str(checkpoint_of("llama")), str(tmp_path / "exported"), "--max-shard-size", "100KB", "--json"]
    code, out, _ = run(capsys, *words)
    assert (code, json.loads(out)["files"]) == (0, len(list((tmp_path / "exported").glob("*.safetensors"))))
    code, out, _ = run(capsys, "convert", str(tmp_path / "exported"), str(tmp_path / "native"), "--dry-run", "--json")
    assert (code, json.loads(out)["dtype"]) == (0, "float32")
    code, out, _ = run(capsys, "convert", str(tmp_path / "exported"), "--dry-run")
    assert f"{tmp_path / 'exported'}: llama, " in out
    assert "an estimate" in out
    assert not (tmp_path / "native").exists()


@pytest.mark.torch
def test_verify_passes_and_fails(capsys, checkpoint_of, monkeypatch):
    code, out, _ = run(capsys, "verify", str(checkpoint_of("llama")), "--layers", "--json")
    report = json.loads(out)
    assert (code, report["passed"]) == (0, True)
    assert len(report["layers"]) == 4
    assert report["round_trip"]
    monkeypatch.setattr(sys.modules["conversion.verify"], "BOUNDS", {"float64": 0.0})
    code, out, _ = run(capsys, "verify", str(checkpoint_of("llama")))
    assert code == 1
    assert "FAILED" in out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples(verb, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([verb, "--help"])
    assert exit_.value.code == 0
    assert f"jaxllm {verb}" in capsys.readouterr().out.split("examples:")[1]
