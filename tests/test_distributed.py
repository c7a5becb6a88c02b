"""Real processes that are one program: the same tokens as one, one voice, and an end for all when one ends."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import jaxllm
from conversion import convert
from jaxllm.cli import main
from jaxllm.kernels.target import save_validated, target
from jaxllm.paths import DEMO
from tests import tiny
from tests.distributed_worker import PROMPTS

ROOT = Path(__file__).parents[1]
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 8, "num_key_value_heads": 2}
CONFIG = tiny.CASES["llama"] | SIZES | {"vocab_size": 1024}  # as many as the demo's tokenizer has
GREEDY = {"max_new_tokens": 12}
SEEDED = GREEDY | {"temperature": 0.8, "top_k": 50, "repetition_penalty": 1.1, "seed": 3}
UNSEEDED = GREEDY | {"temperature": 0.8}
FIRST_SLURM_PORT = 2**16 - 2**12  # JAX takes this one for job 0


class Job:
    """Processes started at once, each with its own arguments; their output is in files, and kept when they end."""

    def __init__(self, path, commands, devices=1, environments=None, directories=None, stdin=""):
        self.path, self.processes = path, []
        path.mkdir()
        (path / "stdin").write_text(stdin)
        for index, command in enumerate(commands):
            settings = {"JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
            environment = os.environ | settings | (environments[index] if environments else {})
            place = directories[index] if directories else path
            with (
                (path / "stdin" if index == 0 else Path(os.devnull)).open() as given,
                (path / f"stdout{index}").open("w") as out,
                (path / f"stderr{index}").open("w") as err,
            ):
                command = [sys.executable, *command]
                process = subprocess.Popen(command, env=environment, cwd=place, stdin=given, stdout=out, stderr=err)
            self.processes.append(process)

    def end(self, timeout=120):
        """The exit codes, outputs and errors."""
        try:
            codes = [process.wait(timeout) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        outs, errs = (
            [(self.path / f"{name}{i}").read_text() for i in range(len(codes))] for name in ("stdout", "stderr")
        )
        return codes, outs, errs


def free_port(first=0, last=0):
    for port in range(first, last + 1):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
                return probe.getsockname()[1]
            except OSError:
                continue
    raise AssertionError("no free port")


def members(count, *command):
    """A command for each process of a job."""
    job = ("--distributed", "--coordinator", f"localhost:{free_port()}", "--num-processes", str(count))
    return [[*command, *job, "--process-id", str(index)] for index in range(count)]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tiny.write(tmp_path_factory.mktemp("distributed") / "source", CONFIG)
    shutil.copy(DEMO / "tokenizer.json", path)
    return path


@pytest.fixture(scope="module")
def checkpoint(source):
    return convert(source, source.parent / "native")


@pytest.mark.parametrize(
    ("count", "cases", "victim"),
    [
        (2, [({"tensor": 8}, UNSEEDED), ({"data": 2, "tensor": 4}, SEEDED)], 0),
        (4, [({"data": 2, "fsdp": 2, "stage": 2, "tensor": 2}, GREEDY)], 2),
    ],
)
def test_tokens_of_one_process_until_one_is_killed(checkpoint, tmp_path, count, cases, victim):
    address, files = f"localhost:{free_port()}", [tmp_path / f"tokens{i}" for i in range(count)]
    job = Job(
        tmp_path / "job",
        [
            [ROOT / "tests" / "distributed_worker.py", address, str(count), str(i), checkpoint, json.dumps(cases), file]
            for i, file in enumerate(files)
        ],
        devices=4,
    )
    model, _ = jaxllm.load(checkpoint)
    expected = [jaxllm.generate_tokens(model, PROMPTS, **options) for _, options in cases]
    deadline = time.monotonic() + 120
    while "going on" not in (job.path / "stdout0").read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
        if any(process.poll() is not None for process in job.processes):
            break
    time.sleep(0.5)
    job.processes[victim].kill()
    killed = time.monotonic()
    codes, outputs, errors = job.end()
    assert time.monotonic() - killed < 15
    found = [json.loads(file.read_text()) for file in files]
    assert all(tokens == found[0] for tokens in found)
    for tokens, alone, (_, options) in zip(found[0], expected, cases, strict=True):
        assert options is UNSEEDED or tokens == alone
    assert codes == [-9 if i == victim else 1 for i in range(count)]
    assert outputs == ["going on\n", *[""] * (count - 1)]
    line = f"jaxllm: process {victim} (of {count}) is gone; stopping\n"
    assert errors == ["" if i == victim else line for i in range(count)]


def test_slurm_job_converts_and_prints(source, checkpoint, tmp_path):
    """Detected by JAX; both need a conversion into one cache, and only process 0 has the prompt on standard input."""
    port = free_port(FIRST_SLURM_PORT, 2**16 - 1)
    slurm = {
        "SLURM_JOB_ID": str(port - FIRST_SLURM_PORT),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "JAXLLM_CACHE": str(tmp_path / "cache"),
    }
    environments = [slurm | {"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(2)]
    command = ["-m", "jaxllm", "generate", "-", "--model", str(source), "-n", "8", "--json", "--distributed"]
    codes, outputs, errors = Job(tmp_path / "job", [command] * 2, 2, environments, stdin="ROMEO:").end()
    assert (codes, errors) == ([0, 0], ["", ""])
    model, tokenizer = jaxllm.load(checkpoint)
    assert json.loads(outputs[0])["text"] == jaxllm.generate(model, tokenizer, "ROMEO:", max_new_tokens=8)
    assert outputs[1] == ""


def test_example(checkpoint, tmp_path):
    words = f"--model {checkpoint} ROMEO: JULIET: --max-new-tokens 4 --temperature 0.8"
    commands = members(2, ROOT / "scripts" / "generate_multi_gpu.py", *words.split())
    codes, outputs, errors = Job(tmp_path / "job", commands).end()
    assert (codes, errors) == ([0, 0], ["", ""])
    assert outputs[0].startswith("2 processes, 2 devices, ")
    assert re.search(r"\n\nROMEO:.*\n\nJULIET:.*\n\n2 texts in ", outputs[0], re.DOTALL)
    assert outputs[1] == ""


def test_errors_end_all_and_are_told_once(tmp_path, monkeypatch):
    """All jobs at once, as each waits more than it works."""
    model = ("-m", "jaxllm", "generate", "./model", "ROMEO:", "--distributed")
    (tmp_path / "with").mkdir()
    (tmp_path / "with" / "model").symlink_to(DEMO)
    (tmp_path / "without").mkdir()
    alike = members(2, *model, "--mesh", "tensor=1")
    differ = members(2, *model)
    differ[1] += ["--seed", "2"]
    caches = [{}, {"JAXLLM_CACHE": str(tmp_path / "cache")}]
    monkeypatch.setenv("JAXLLM_CACHE", caches[1]["JAXLLM_CACHE"])
    save_validated(target().device, frozenset({"flash"}))
    monkeypatch.undo()
    places = {
        "alike": ["with", "with"],
        "differ": ["with", "with"],
        "leader": ["without", "with"],
        "follower": ["with", "without"],
    }
    commands = {"alike": alike, "differ": differ, "leader": members(2, *model), "follower": members(2, *model)}
    jobs = {
        name: Job(tmp_path / name, commands[name], directories=[tmp_path / place for place in places[name]])
        for name in places
    }
    jobs["validated"] = Job(
        tmp_path / "validated", members(2, *model), environments=caches, directories=[tmp_path / "with"] * 2
    )
    ends = {name: job.end(60) for name, job in jobs.items()}
    assert all(codes == [2, 2] and outputs == ["", ""] for codes, outputs, _ in ends.values()), ends
    assert all(errors[1] == "" and errors[0].count("\n") == 1 for *_, errors in ends.values()), ends
    told = {name: errors[0] for name, (*_, errors) in ends.items()}
    assert told["alike"].endswith(" leave some processes without a device; use all 2 processes\n")
    assert told["differ"] == "jaxllm: process 1 (of 2): settings: seed is 2, but None on process 0\n"
    assert told["validated"].endswith(
        ": validated kernels (jaxllm doctor --kernels) is ['flash'], but [] on process 0\n"
    )
    assert told["leader"].startswith("jaxllm: './model': this path does not exist")
    assert told["follower"].startswith("jaxllm: process 1 (of 2): './model': this path does not")


def test_no_meeting(tmp_path):
    """Nobody at the coordinator's address, an address that is taken, and none at all."""
    absent = members(2, "-m", "jaxllm", "generate", "x", "--join-timeout", "1")[1:]
    with socket.create_server(("", 0)) as taken:
        address = f"localhost:{taken.getsockname()[1]}"
        words = "-m jaxllm generate x --distributed --num-processes 2 --process-id 0 --coordinator"
        commands = absent, [[*words.split(), address]], [["-m", "jaxllm", "generate", "x", "--distributed"]]
        jobs = [Job(tmp_path / str(i), command) for i, command in enumerate(commands)]
        ends = [job.end(60) for job in jobs]
    assert [codes for codes, *_ in ends] == [[2], [2], [2]]
    waiting, timeout = ends[0][2][0].splitlines()
    assert waiting.startswith("jaxllm: waiting for all processes to meet at localhost:")
    assert timeout.startswith("jaxllm: not all processes met at ")
    assert ends[1][2][0] == f"jaxllm: coordinator {address}: cannot listen there: Address already in use\n"
    assert ends[2][2][0].startswith("jaxllm: no SLURM, Open MPI, Kubernetes or TPU slice found: give coordinator")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--num-processes 2", "--num-processes needs --distributed"),
        ("--distributed --num-processes 2", "coordinator is missing: coordinator, num_processes and process_id go"),
        ("--distributed --coordinator here --num-processes 2 --process-id 0", "coordinator 'here': write HOST:PORT"),
        ("--distributed --coordinator h:1 --num-processes 2 --process-id 2", "process_id=2: must be from 0 to 1"),
        ("--distributed --local-devices a", "--local-devices 'a': write numbers"),
        ("--distributed --join-timeout 0", "timeout=0.0: must be at least 1"),
    ],
)
def test_arguments_that_name_no_job(capsys, words, message):
    assert main(["generate", "x", *words.split()]) == 2
    assert capsys.readouterr().err.startswith(f"jaxllm: {message}")
