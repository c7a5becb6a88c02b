"""Talk with a model, turn by turn.

examples:
  jaxllm chat path/to/model
  jaxllm chat owner/repo --system "You are terse." -t 0.7
  jaxllm chat --stop '\\n\\n' -t 0.8                          the demo model, as a dialogue in verse

An empty line or end of input ends the conversation.
"""

import argparse
import sys

from jaxllm.cli.common import (
    add_job_arguments,
    add_model_arguments,
    add_sampling_arguments,
    load_model,
    sampling_options,
)
from jaxllm.errors import InputError
from jaxllm.storage import DEMO


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """A model, how to begin, and how to sample."""
    verb.add_argument("words", nargs="?", metavar="MODEL", help="the model")
    verb.add_argument("--system", help="the system message")
    add_model_arguments(verb)
    add_sampling_arguments(verb)
    add_job_arguments(verb)


def run(arguments: argparse.Namespace) -> None:
    """Reads a turn, streams the answer, and so on."""
    arguments.model = arguments.model or arguments.words
    model, tokenizer = load_model(arguments)
    from jaxllm import stream_generate
    from jaxllm.distributed import broadcast

    if tokenizer.chat_template is None:
        raise InputError(f"{arguments.model or DEMO}: has no chat template; use jaxllm generate")
    messages = [{"role": "system", "content": arguments.system}] if arguments.system else []
    while turn := broadcast(_read_turn):
        messages.append({"role": "user", "content": turn})
        prompt = tokenizer.encode(tokenizer.apply_chat_template(messages), add_special_tokens=False)
        answer = ""
        for piece in stream_generate(model, tokenizer, prompt, **sampling_options(arguments)):
            print(piece.text, end="", flush=True)
            answer += piece.text
        print(flush=True)
        messages.append({"role": "assistant", "content": answer})


def _read_turn() -> str:
    if sys.stdin.isatty():
        print("> ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()
