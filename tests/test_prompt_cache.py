"""What a model has read is not read again: next prompts go on from it, on any mesh, and get what they would."""

from contextlib import suppress
from typing import Any

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import jaxllm
from conversion import convert
from jaxllm import InputError, PromptCache
from jaxllm.checkpoint import restore
from jaxllm.generation import tokens
from jaxllm.generation.tokens import generate_steps
from tests import tiny

IDS = np.random.default_rng(0).integers(0, 97, 80).tolist()
WINDOWED = ("mistral", "gemma2")  # of five tokens


@pytest.fixture(scope="module")
def native(tmp_path_factory, checkpoint_of):
    """The native checkpoint of a case, made once."""
    root, made = tmp_path_factory.mktemp("native"), {}

    def checkpoint(case):
        made[case] = made.get(case) or convert(checkpoint_of(case), root / case)
        return made[case]

    return checkpoint


def generated(model, prompt, **given):
    options: Any = {"max_new_tokens": 12, **given}
    return jaxllm.generate_tokens(model, [prompt], **options)[0]


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("llama", {}),
        ("mistral", {}),
        ("gemma2", {"prefill_chunk_size": 6}),
        ("deepseek_v3", {}),
        ("phi3-crossing", {}),  # LongRoPE, with other frequencies beyond 11 tokens
    ],
)
def test_a_prefix_is_read_once(native, reads, case, options):
    """Longer prompts, the same one, shorter ones: each gives what it gives alone, and no more is read than must be."""
    model, kept = restore(native(case)), PromptCache()
    turn = 11 if case == "phi3-crossing" else 0
    forks = [*IDS[:30], 1], [*IDS[:14], 1, 2, 3], IDS[:5]
    before: list[int] = []
    for prompt in (IDS[:4], IDS[:8], IDS[:30], IDS[:30], *forks, None):
        prompt = prompt or [*kept.tokens, 7, 8, 9]  # at last, what goes on from an answer
        shared = next((i for i, (a, b) in enumerate(zip(before, prompt, strict=False)) if a != b), len(prompt) - 1)
        shared = min(shared, len(before), len(prompt) - 1)
        anew = (case in WINDOWED and shared < len(before) > 5) or len(prompt) <= turn < len(before)
        reads.clear()
        found = generated(model, prompt, prompt_cache=kept, **options)
        assert sum(reads) == len(prompt) - (0 if anew else shared)
        assert found == generated(model, prompt, **options)
        before = [*prompt, *found][:-1]
        assert list(kept.tokens) == before


@pytest.mark.parametrize(("case", "dtype"), [("llama", "int8"), ("mistral", "fp8")])
def test_eight_bits_are_those_of_a_prompt_in_chunks(native, reads, case, dtype):
    """What is read in one go is seen as it was, what is kept as it is kept: so chunks are to be the same."""
    model, kept = restore(native(case)), PromptCache()
    generated(model, IDS[:16], prompt_cache=kept, cache_dtype=dtype, max_new_tokens=1)
    found = generated(model, IDS[:27], prompt_cache=kept, cache_dtype=dtype)
    assert reads == [16, 11]
    assert found == generated(model, IDS[:27], cache_dtype=dtype, prefill_chunk_size=16)


def test_chunks_of_any_size_have_room(native, reads):
    """A padded chunk that went beyond the cache would be written over what comes before it."""
    model, kept = restore(native("llama")), PromptCache()
    for prompt in (IDS[:63], IDS[:50]):
        expected = generated(model, prompt, max_new_tokens=1)
        for options in ({"prefill_chunk_size": 49}, {"prompt_cache": kept}):
            assert generated(model, prompt, max_new_tokens=1, **options) == expected


@pytest.mark.parametrize("case", ["llama", "mistral"])
def test_whoever_stops_early_goes_on_from_there(native, reads, case):
    """Tokens ahead of the caller's are dropped; with a window, there are none."""
    model, kept = restore(native(case)), PromptCache()
    whole = generated(model, IDS[:6], max_new_tokens=12)
    for taken in (1, 2, 5):
        stream = generate_steps(model, [IDS[:6]], max_new_tokens=12, prompt_cache=kept)
        said = [int(next(stream).token[0]) for _ in range(taken)]
        assert said == whole[:taken]
        assert case == "llama" or list(kept.tokens) == [*IDS[:6], *said[:-1]]
        prompt = [*IDS[:6], *said, 3]
        reads.clear()
        assert generated(model, prompt, prompt_cache=kept) == generated(model, prompt)
        assert reads[0] == (1 if case == "llama" and taken == 5 else 2)  # the last that was said, and what is new
        with pytest.raises(InputError, match="another generation uses it now"):
            list(stream)
        kept = PromptCache()


def test_an_interrupt_leaves_nothing_broken(native, reads, monkeypatch):
    model, kept = restore(native("llama")), PromptCache()
    generated(model, IDS[:20], prompt_cache=kept)

    def interrupted(model, state, *rest):
        jax.tree.map(lambda x: x.delete(), state.cache)  # as donation does
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(tokens, "decode", interrupted)
        generated(model, IDS[:20], prompt_cache=kept)
    assert kept.tokens == ()
    assert generated(model, IDS[:20], prompt_cache=kept) == generated(model, IDS[:20])


def test_whoever_took_it_meanwhile_keeps_its_own(native, reads, monkeypatch, tmp_path):
    """As of two threads: what is kept at last goes with the settings that it was read with."""
    model, kept, real = restore(native("llama")), PromptCache(), tokens.decode

    def meanwhile(*arguments):
        monkeypatch.setattr(tokens, "decode", real)
        generated(model, IDS[:9], prompt_cache=kept, cache_dtype="int8", max_new_tokens=1)
        return real(*arguments)

    monkeypatch.setattr(tokens, "decode", meanwhile)
    assert generated(model, IDS[:20], prompt_cache=kept) == generated(model, IDS[:20])
    kept.save(tmp_path / "kept")
    assert PromptCache.load(tmp_path / "kept", model).tokens == kept.tokens
    with pytest.raises(InputError, match="cache_dtype='float32', not 'int8'"):
        generated(model, IDS[:20], prompt_cache=kept, cache_dtype="int8")


MESHES = {"one": None, "tensor": {"tensor": 6}, "stages": {"stage": 2, "tensor": 1}, "offload": None}


def on(native, case, mesh, **options):
    axes = MESHES[mesh]
    devices = jax.devices()[: np.prod(list(axes.values()))] if axes else None
    mesh, offload = axes and jaxllm.make_mesh(**axes, devices=devices), mesh == "offload"
    return restore(native(case), mesh, offload=offload, **options)


def contents(file):
    with safe_open(file, framework="np") as opened:
        arrays = {name: opened.get_tensor(name) for name in opened.offset_keys()}
        return opened.metadata(), {name: (x.tobytes(), x.dtype, x.shape) for name, x in arrays.items()}


@pytest.mark.parametrize(
    ("case", "options", "meshes"),
    [
        ("llama", {}, ["one", "tensor", "stages", "offload"]),  # two heads, six devices
        ("gemma2", {"cache_dtype": "fp8"}, ["stages", "tensor", "one"]),  # three layers in two stages
        ("phi3-crossing", {}, ["stages", "one"]),
        ("deepseek_v3", {}, ["one", "offload"]),
    ],
)
def test_files_go_from_mesh_to_mesh(native, reads, tmp_path, case, options, meshes):
    file, again, prompt, whole = tmp_path / "kept", tmp_path / "again", IDS[:20], on(native, case, "one")
    kept = PromptCache()
    for mesh in meshes:
        model = on(native, case, mesh)
        if file.exists():
            kept = PromptCache.load(file, model)
            kept.save(again)
            assert contents(again) == contents(file)
            prompt = [*kept.tokens, 7, 8, 9]
        reads.clear()
        found = generated(model, prompt, prompt_cache=kept, **options)
        assert reads == [20 if mesh == meshes[0] else 3]
        assert options or found == generated(whole, prompt)  # of eight bits see above
        kept.save(file)
    assert {path.name for path in tmp_path.iterdir()} == {file.name, again.name}
    for name, (_, _, shape) in contents(file)[1].items():  # of what is filled, each head once
        windowed = case in WINDOWED and name[0] in "02"
        assert shape[-1 if name == "tokens" else 2] == (5 if windowed else len(kept.tokens)), name
        assert name == "tokens" or shape[1] == (1 if case == "deepseek_v3" else 6 if "phi3" in case else 2)


def test_bad_caches_are_named(native, reads, tmp_path):
    model, kept, file = restore(native("llama")), PromptCache(), tmp_path / "kept"
    with pytest.raises(InputError, match="pass it to generate first"):
        kept.save(file)
    generated(model, IDS[:9], prompt_cache=kept)
    kept.save(file)
    tuned = restore(convert(tiny.write(tmp_path / "tuned", tiny.CASES["llama"], seed=1), tmp_path / "native"))
    others = {
        "layers.num_layers=2, not 3": restore(native("mistral")),
        "dtype='float32', not 'bfloat16'": restore(native("llama"), dtype="bfloat16"),
        "weights=": tuned,
        "on another mesh": on(native, "llama", "tensor"),
    }
    for message, other in others.items():
        with pytest.raises(InputError, match=f"prompt_cache: .*{message}"):
            generated(other, IDS[:9], prompt_cache=kept)
        if "mesh" not in message:
            with pytest.raises(InputError, match=f"{file}: .*{message}"):
                PromptCache.load(file, other)
    for options, message in (
        ({"prompt_cache": kept, "cache_dtype": "int8"}, "other settings: cache_dtype='float32', not 'int8'"),
        ({"prompt_cache": str(file)}, "must be a PromptCache"),
    ):
        with pytest.raises(InputError, match=message):
            generated(model, IDS[:9], **options)
    with pytest.raises(InputError, match="stores one prompt, not 2"):
        jaxllm.generate_tokens(model, [[1], [2]], prompt_cache=kept)
    assert len(kept.tokens) == 20  # still there


def test_bad_files_are_named(native, reads, tmp_path):
    model, kept, file = restore(native("llama")), PromptCache(), tmp_path / "kept"
    generated(model, IDS[:9], prompt_cache=kept)
    kept.save(file)
    whole, arrays, (metadata, _) = file.read_bytes(), load_file(file), contents(file)
    fewer = {name: array for name, array in arrays.items() if name != "1.value"}
    for change, message in (
        (lambda: file.write_bytes(whole[:-1]), "incomplete"),
        (lambda: file.write_bytes(whole[:9]), "header"),
        (lambda: file.write_bytes(b""), "header"),
        (lambda: save_file(arrays, file), "not a prompt cache of this version"),
        (lambda: save_file(fewer, file, metadata), "1.value is not what its model keeps of 20 tokens"),
        (lambda: save_file(arrays | {"2.key": arrays["1.key"]}, file, metadata), "2.key is not what"),
        (lambda: save_file(arrays | {"1.key": arrays["1.key"][:, :, 1:]}, file, metadata), "1.key is not what"),
        (lambda: save_file(arrays | {"tokens": arrays["tokens"][:0]}, file, metadata), "no tokens"),
        (lambda: save_file(arrays | {"tokens": arrays["tokens"] + 101}, file, metadata), "does not take"),
        (lambda: save_file(arrays, file, metadata | {"model": "[" * 10_000}), "does not say which model"),
        (lambda: save_file(arrays, file, metadata | {"model": "null"}), "does not say which model"),
        (file.unlink, "No such file"),
        (file.mkdir, "is a directory"),
    ):
        change()
        with pytest.raises(InputError, match=f"{file}: .*{message}") as error:
            PromptCache.load(file, model)
        assert "\n" not in str(error.value)
    for name, message in (("kept", "is a directory"), ("kept.2/x", "cannot be written"), ("x" * 300, "too long")):
        (tmp_path / "kept.2").touch()
        with pytest.raises(InputError, match=f"{tmp_path / name}: .*{message}"):
            kept.save(tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"kept", "kept.2"}
