"""Talk with a model, turn by turn.

examples:
  jaxllm chat path/to/model
  jaxllm chat owner/repo --system "You are terse." -t 0.7
  jaxllm chat --stop '\\n\\n' -t 0.8                          the demo model, as a dialogue in verse

An empty line or end of input ends the conversation. The model reads each turn once, however long they get together.
"""

import argparse
import sys

from jaxllm.cli.common import (
    add_generation_arguments,
    add_job_arguments,
    add_model_arguments,
    generation_options,
    load_model,
)
from jaxllm.errors import InputError
from jaxllm.paths import DEMO


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """Adds the arguments: a model, the system prompt, and generation options."""
    verb.add_argument("words", nargs="?", metavar="MODEL", help="the model")
    verb.add_argument("--system", help="the system message")
    add_model_arguments(verb)
    add_generation_arguments(verb)
    add_job_arguments(verb)


def run(arguments: argparse.Namespace) -> None:
    """Reads the user's turns and streams the answers."""
    arguments.model = arguments.model or arguments.words
    model, tokenizer = load_model(arguments)
    from jaxllm import PromptCache, stream_generate
    from jaxllm.parallel.distributed import broadcast
    from jaxllm.text.conversation import Conversation

    if tokenizer.chat_template is None:
        raise InputError(f"{arguments.model or DEMO}: has no chat template; use jaxllm generate")
    conversation = Conversation(tokenizer, arguments.system)
    kept = PromptCache()
    while turn := broadcast(_read_turn):
        pieces = []
        prompt = conversation.add_user(turn)
        for piece in stream_generate(model, tokenizer, prompt, prompt_cache=kept, **generation_options(arguments)):
            print(piece.text, end="", flush=True)
            pieces.append(piece)
        print(flush=True)
        conversation.add_assistant("".join(piece.text for piece in pieces), [piece.token for piece in pieces])


def _read_turn() -> str:
    if sys.stdin.isatty():
        print("> ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()
