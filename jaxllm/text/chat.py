"""Chat templates: untrusted Jinja, rendered in a sandbox that is configured as in Transformers."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from jaxllm.errors import InputError
from jaxllm.text.files import library_errors

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.sandbox import ImmutableSandboxedEnvironment


def render_chat(template: str, variables: Mapping[str, Any], name: str) -> str:
    """Renders a chat template; `name` is the tokenizer's, for the one-line InputError if that fails."""
    try:
        # Through JSON and back: the template gets data, never objects with methods.
        data = json.loads(json.dumps(variables))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"a conversation is a list of dicts of plain JSON data: {error}") from None
    if not isinstance(data["messages"], list) or not all(isinstance(m, dict) for m in data["messages"]):
        raise InputError("a conversation is a list of dicts, such as [{'role': 'user', 'content': 'Hello'}]")
    with library_errors(f"chat template of {name}"):
        return _compile(template).render(data)


@functools.lru_cache(maxsize=16)
def _compile(template: str) -> Template:
    return _environment().from_string(template)


@functools.cache
def _environment() -> ImmutableSandboxedEnvironment:
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_generation_blocks(), loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["namespace"] = _guarded_namespace()
    environment.globals["dict"] = lambda *args, **kwargs: dict(*args, **kwargs)  # callable, but not the type itself
    return environment


def _tojson(value: Any, ensure_ascii: bool = False, indent=None, separators=None, sort_keys: bool = False) -> str:
    """Serializes JSON without escaping HTML, as Transformers does; models were trained on that."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise InputError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _generation_blocks() -> type:
    """Renders `{% generation %}...{% endgeneration %}`, which marks text that a model is trained on, as its content."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class GenerationBlocks(Extension):
        def parse(self, parser: Parser) -> list[nodes.Node]:
            # A scope, because in Transformers the block is a call: what it sets must not be seen after it.
            line = next(parser.stream).lineno
            return [nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)]

    GenerationBlocks.tags = {"generation"}
    return GenerationBlocks


def _guarded_namespace() -> type:
    """Jinja's namespace without attributes that start with an underscore, a known way out of the sandbox."""
    from jinja2.exceptions import SecurityError
    from jinja2.utils import Namespace

    class GuardedNamespace(Namespace):
        def __init__(*args, **kwargs):  # self is positional-only, for namespace(self=...) in templates
            attributes = dict(*args[1:], **kwargs)
            Namespace.__init__(args[0])
            for name, value in attributes.items():
                args[0][name] = value

        def __setitem__(self, name, value):
            if str(name).startswith("_"):
                raise SecurityError(f"a namespace cannot hold {name!r}")
            Namespace.__setitem__(self, name, value)

    return GuardedNamespace
