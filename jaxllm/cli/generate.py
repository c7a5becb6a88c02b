"""Continue a text.

examples:
  jaxllm generate "ROMEO:"                                  the bundled demo model
  jaxllm generate path/to/model "Once upon a time" -n 100
  jaxllm generate owner/repo "Dear diary," -t 0.8 --top-p 0.95 --seed 1
  jaxllm generate path/to/model - --mesh tensor=8 < prompt.txt
  jaxllm generate path/to/model - --prompt-cache kept.safetensors < long.txt   skip prefill the next time
  srun jaxllm generate path/to/model "Dear diary," --distributed --mesh data=2,tensor=8

With --distributed several processes run as one: each gets the same arguments, process 0 reads standard input and
prints, and when one fails all end. If no cluster is detected, give each its number:
  jaxllm generate path/to/model "Dear diary," --distributed --coordinator host0:9876 --num-processes 2 --process-id 0
  jaxllm generate path/to/model "Dear diary," --distributed --coordinator host0:9876 --num-processes 2 --process-id 1
"""

import argparse
import json
import os
import sys

from jaxllm.cli.common import (
    add_generation_arguments,
    add_job_arguments,
    add_model_arguments,
    generation_options,
    load_model,
)
from jaxllm.errors import InputError


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """Adds the arguments: a model, a prompt, and generation options."""
    verb.add_argument("words", nargs="*", metavar="[MODEL] PROMPT", help="the prompt, - for standard input")
    verb.add_argument("--prompt", help="the prompt, if not the last argument")
    add_model_arguments(verb)
    add_generation_arguments(verb)
    verb.add_argument(
        "--prompt-cache",
        metavar="FILE",
        help="keep what was read in this file, for prompts that begin with the same text",
    )
    add_job_arguments(verb)
    verb.add_argument("--json", action="store_true", help="print one JSON object instead of the text")


def run(arguments: argparse.Namespace) -> None:
    """Streams the continuation to stdout, and prints a line of statistics to stderr."""
    prompt = take_model_and_prompt(arguments)
    if arguments.prompt_cache is not None and arguments.distributed:
        raise InputError("--prompt-cache is for one process, not for several with --distributed")
    if arguments.prompt_cache == "":
        raise InputError("--prompt-cache '': is no name of a file")
    model, tokenizer = load_model(arguments)
    from jaxllm import PromptCache, stream_generate

    pieces = []
    options = generation_options(arguments)
    file = arguments.prompt_cache
    if file is not None:
        options["prompt_cache"] = PromptCache.load(file, model) if os.path.lexists(file) else PromptCache()
    for piece in stream_generate(model, tokenizer, prompt, **options):
        pieces.append(piece)
        if not arguments.json:
            print(piece.text, end="", flush=True)
    last = pieces[-1]
    figures = {
        "prompt_tokens": last.prompt_tokens,
        "generated_tokens": last.generated_tokens,
        "prompt_seconds": round(last.prompt_seconds, 3),
        "tokens_per_second": round(last.tokens_per_second, 1),
        "finish_reason": last.finish_reason,
    }
    if arguments.json:
        tokens = [piece.token for piece in pieces]
        print(json.dumps({"text": "".join(piece.text for piece in pieces), "tokens": tokens, **figures}))
    else:
        print(flush=True)
        print("jaxllm:", ", ".join(f"{key} {value}" for key, value in figures.items()), file=sys.stderr)
    if file is not None:  # last: a full disk does not lose the text
        options["prompt_cache"].save(file)


def take_model_and_prompt(arguments: argparse.Namespace) -> str:
    """Returns the prompt, and stores the model; a single argument is the prompt unless `--prompt` is given."""
    words = list(arguments.words)
    if arguments.prompt is None:
        if not words:
            raise InputError('no prompt: write jaxllm generate "some text"')
        arguments.prompt = words.pop()
        if arguments.prompt and not words and os.path.isdir(arguments.prompt):
            raise InputError(f"no prompt: {arguments.prompt} is a directory; write the prompt behind it")
    if words and arguments.model is None:
        arguments.model = words.pop(0)
    if words:
        raise InputError(f"too many arguments: {words[0]!r}; quote the prompt")
    if arguments.prompt != "-":
        return arguments.prompt
    from jaxllm.parallel.distributed import broadcast

    return broadcast(sys.stdin.read)
