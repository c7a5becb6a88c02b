"""The `jaxllm` program: verbs and their arguments. The library does the work."""

import argparse
import io
import logging
import sys
from collections.abc import Sequence

from jaxllm import __version__
from jaxllm.cli import chat, convert, doctor, export, generate, plan, verify
from jaxllm.cli.common import job
from jaxllm.errors import InputError

VERBS = {
    "generate": generate,
    "chat": chat,
    "convert": convert,
    "export": export,
    "verify": verify,
    "plan": plan,
    "doctor": doctor,
}


def parser() -> argparse.ArgumentParser:
    """Returns the parser of all verbs and their options."""
    top = argparse.ArgumentParser(prog="jaxllm", description="Pretrained transformers in JAX.")
    top.add_argument("--version", action="version", version=f"jaxllm {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, module in VERBS.items():
        summary, _, details = (module.__doc__ or "").partition("\n")
        verb = verbs.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=details.strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(verb)
        verb.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return top


def program() -> int:
    """Runs `main` as a process: suppresses the tracebacks that Orbax prints after a failed read."""
    if "--debug" not in sys.argv:
        sys.unraisablehook = lambda unraisable: None
        for logger in ("absl", "asyncio"):
            logging.getLogger(logger).setLevel(logging.CRITICAL + 1)
    return main()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb. Returns 0, 1 if a verification failed, 2 for invalid input, or 130 if interrupted."""
    arguments = _parsed(argv)
    for stream in (sys.stdout, sys.stderr):  # a terminal that cannot show a character shows a replacement
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        with job(arguments):
            return VERBS[arguments.verb].run(arguments) or 0
    except BrokenPipeError:  # the reader of our output has ended, as in `jaxllm generate ... | head`
        sys.stderr.close()
        return 0
    except (InputError, OSError) as error:
        if arguments.debug:
            raise
        print(f"jaxllm: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses arguments; positional ones may stand before and after options, which argparse alone does not allow."""
    top = parser()
    arguments, rest = top.parse_known_args(argv)
    words = getattr(arguments, "words", None)
    if rest and (not isinstance(words, list) or any(word.startswith("-") for word in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.words = [*words, *rest] if words else rest
    return arguments
