"""A conversation goes on from what was read and said in it, whatever its text would be encoded to."""

import io
import json
import sys

from sentencepiece import SentencePieceTrainer

import jaxllm
from jaxllm.cli import main
from jaxllm.paths import DEMO
from jaxllm.text import load_tokenizer
from jaxllm.text.conversation import Conversation


def test_chat_reads_every_token_once(capsys, monkeypatch, reads):
    """Over three turns; what a stop string ends is not encoded again, though its text would give other ids."""
    prompts, kept, said, stream = [], [], [], jaxllm.stream_generate

    def spy(model, tokenizer, prompt, **options):
        prompts.append(prompt)
        kept.append(options["prompt_cache"].tokens)
        said.append([])
        for piece in stream(model, tokenizer, prompt, **options):
            said[-1].append(piece.token)
            yield piece

    monkeypatch.setattr(jaxllm, "stream_generate", spy, raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO("Who art thou?\nSpeak again.\nWhither?\n\n"))
    options = ["-t", "0.9", "--seed", "4", "-n", "40", "--cache-dtype", "int8", "--prefill-chunk-size", "64"]
    assert main(["chat", "--stop", r"\n\n", *options]) == 0
    assert len(prompts) == 3
    for turn in (1, 2):
        history = prompts[turn - 1] + said[turn - 1][:-1]  # the last of it was not read, but where some were ahead
        assert list(kept[turn][: len(history)]) == prompts[turn][: len(history)] == history
        ahead = [a == b for a, b in zip(kept[turn][len(history) :], prompts[turn][len(history) :], strict=False)]
        assert reads[turn] == len(prompts[turn]) - len(history) - [*ahead, False].index(False)


def test_conversations():
    """As far as a template repeats what was said, it stays what it was, whatever its text would be encoded to."""
    tokenizer = load_tokenizer(DEMO)
    talk = Conversation(tokenizer, "Verse.")
    first = talk.add_user("Ho!")
    odd = [token for character in "Well ☂" for token in tokenizer.encode(character)]  # not as it would be encoded
    assert odd != tokenizer.encode("Well ☂")
    talk.add_assistant("Well ☂", [*odd, *tokenizer.encode("\n\nJULIET"), 1023])
    second = talk.add_user("Go.")
    assert second[: len(first) + len(odd)] == first + odd
    assert tokenizer.decode(second) == tokenizer.apply_chat_template(talk.messages)
    talk.add_assistant("Rewritten", tokenizer.encode("Spoken"))
    assert talk.add_user("No?")[: len(second)] == second
    talk.messages[1]["content"] = "Ha!"  # now the old text is no beginning of the new one
    assert talk.add_user("So?") == tokenizer.encode(tokenizer.apply_chat_template(talk.messages))


def test_conversations_by_sentencepiece(tmp_path):
    """It begins a text with a space of its own, which is not to come between turns."""
    model, lines = io.BytesIO(), (DEMO / "README.md").read_text("utf-8").splitlines()
    options = {"vocab_size": 400, "byte_fallback": True, "model_type": "bpe", "minloglevel": 2}
    SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, **options)
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    template = """{{ bos_token }}{% for m in messages %}{% if m.role == "user" %}[INST] {{ m.content }} [/INST]
        {%- else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"""
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    tokenizer = load_tokenizer(tmp_path)
    talk = Conversation(tokenizer)
    first, odd = talk.add_user("Is it?"), [*tokenizer.encode("It", False), *tokenizer.encode("is.", False), 2]
    talk.add_assistant("It is.", odd)
    history, second = [*first, *odd], talk.add_user("Is it so?")
    assert second[: len(history)] == history
    assert tokenizer.decode(second, False) == "<s>[INST] Is it? [/INST] It is.</s>[INST] Is it so? [/INST]"


def test_generate_keeps_a_file(capsys, tmp_path, reads):
    file = tmp_path / "kept.safetensors"
    for prompt, count in (("ROMEO:\nWhat", 0), ("ROMEO:\nWhat light", 1)):
        assert main(["generate", prompt, "-n", "5", "--prompt-cache", str(file)]) == 0
        assert reads[-1] < 8 - 4 * count
    text = capsys.readouterr().out
    assert main(["generate", "ROMEO:\nWhat light", "-n", "5"]) == 0
    assert text.endswith(capsys.readouterr().out)
    assert main(["generate", "x", "--prompt-cache", str(file), "--cache-dtype", "fp8"]) == 2
    assert "cache_dtype='bfloat16', not 'float8_e4m3fn'" in capsys.readouterr().err
    capsys.readouterr()
    assert main(["generate", "x", "-n", "2", "--json", "--prompt-cache", str(file / "x")]) == 2
    said, told = capsys.readouterr()
    assert len(json.loads(said)["tokens"]) == 2  # what was generated is not lost with what was to be kept
    assert f"{file / 'x'}: cannot be written" in told
