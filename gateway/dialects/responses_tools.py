"""Tools of OpenAI's Responses API in the form of its chat API, which knows only functions.

A custom tool takes text instead of JSON. It becomes a function with the text as its only parameter, and
`CustomInput` takes the text out of the function's arguments again, as they grow. A namespace groups tools:
its name and the tool's are one name for the model, and two again for the client.

What runs on OpenAI's servers cannot run here. Such tools (web search, file search, code interpreter, image
generation, MCP servers, ...) are left out silently, because clients such as Codex send them without need. So
are tools that run at the client but have no schema (local shell, computer, ...).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.dialects.openai_chat import text_or_empty
from gateway.dialects.openai_errors import invalid

Values = dict[str, Any]

INPUT = "input"
"""The only parameter of a function that stands for a custom tool."""
_CUSTOM_PARAMETERS: Mapping[str, Any] = {
    "type": "object",
    "properties": {INPUT: {"type": "string", "description": "The whole input of the tool, as plain text."}},
    "required": [INPUT],
    "additionalProperties": False,
}
_CHOICES = ("none", "auto", "required")


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as the client knows it."""

    name: str
    namespace: str
    """Empty: none."""
    is_custom: bool
    function: Values
    """The tool as the chat API's function."""


Tools = Mapping[str, Tool]
"""By the name that the model sees."""


def flat_name(namespace: str, name: str) -> str:
    """The name that the model sees for a tool in a namespace."""
    return name if not namespace else f"{namespace}{'' if namespace.endswith('__') else '__'}{name}"


def tools(body: Values) -> Tools:
    """The tools of a request, in order. Raises INVALID_FIELD.

    Codex sends those of its newest models as an item of the input.
    """
    given = [("tools", body.get("tools"))]
    items = body.get("input")
    for place, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict) and item.get("type") == "additional_tools":
            given.append((f"input[{place}].tools", item.get("tools")))
    return {
        flat_name(each.namespace, each.name): each for name, value in given for each in _tools(name, value)
    }


def options(body: Values, found: Tools) -> Values:
    """The chat API's `tools`, `tool_choice` and `parallel_tool_calls`; nothing without a tool.

    Raises INVALID_FIELD.
    """
    choice, allowed = _choice(body.get("tool_choice"), found)
    functions = [
        {"type": "function", "function": each.function} for name, each in found.items() if name in allowed
    ]
    if not functions:
        return {}
    chat: Values = {"tools": functions}
    if choice is not None:
        chat["tool_choice"] = choice
    if (parallel := body.get("parallel_tool_calls")) is not None:
        chat["parallel_tool_calls"] = parallel is not False
    return chat


def custom_arguments(text: str) -> str:
    """The arguments of the function call that stands for a call of a custom tool."""
    return orjson.dumps({INPUT: text}).decode()


def _tools(name: str, given: object, namespace: str = "") -> Iterator[Tool]:
    if given is None:
        return
    if not isinstance(given, list):
        raise invalid(name, "must be a list of tools")
    for place, each in enumerate(given):
        at = f"{name}[{place}]"
        if not isinstance(each, dict):
            raise invalid(at, "must be an object with a type, such as function")
        match each.get("type"):
            case "function" | "custom" as kind:
                yield _tool(at, each, namespace, is_custom=kind == "custom")
            case "namespace" if not namespace:
                yield from _tools(f"{at}.tools", each.get("tools"), _name(at, each))


def _tool(at: str, given: Values, namespace: str, is_custom: bool) -> Tool:
    name = _name(at, given)
    function: Values = {"name": flat_name(namespace, name)}
    description = text_or_empty(given.get("description"))
    if is_custom:
        description = "\n\n".join(text for text in (description, _grammar(given.get("format"))) if text)
        function["parameters"] = _CUSTOM_PARAMETERS
    else:
        function |= {
            field: value for field in ("parameters", "strict") if (value := given.get(field)) is not None
        }
    if description:
        function["description"] = description
    return Tool(name, namespace, is_custom, function)


def _grammar(form: object) -> str:
    """The grammar of a custom tool's input for the model to read: nothing here can enforce it."""
    if not isinstance(form, dict) or not (definition := text_or_empty(form.get("definition"))):
        return ""
    return f"The input must match this {text_or_empty(form.get('syntax'))} grammar:\n{definition}"


def _name(at: str, given: Values) -> str:
    name = given.get("name")
    if not isinstance(name, str) or not name.strip():
        raise invalid(f"{at}.name", "is required")
    return name


def _choice(given: object, found: Tools) -> tuple[str | Values | None, Tools]:
    """The chat API's choice, and the tools among which it is made."""
    if given is None or given in _CHOICES:
        return given, found
    if not isinstance(given, dict):
        raise invalid("tool_choice", f"must be {', '.join(_CHOICES)}, or an object that names a tool")
    match given.get("type"):
        case "function" | "custom":
            if (name := _chosen(given)) not in found:
                raise invalid("tool_choice.name", "must be the name of a tool in tools")
            return {"type": "function", "function": {"name": name}}, found
        case "allowed_tools":
            listed = given.get("tools")
            listed = listed if isinstance(listed, list) else []
            names = {_chosen(each) for each in listed if isinstance(each, dict)}
            mode = given.get("mode")
            allowed = {name: tool for name, tool in found.items() if name in names}
            return mode if mode in _CHOICES else "auto", allowed
    return None, found  # a tool that was left out


def _chosen(given: Values) -> str:
    return flat_name(text_or_empty(given.get("namespace")), text_or_empty(given.get("name")))


_START = re.compile(rf'\s*\{{\s*"{INPUT}"\s*:\s*"')
_START_CHARS = 100
"""Within them the text must begin. A limit keeps the time linear, however small the pieces are."""
_HIGH, _LOW, _HEX = "[dD][89abAB][0-9a-fA-F]{2}", "[dD][c-fC-F][0-9a-fA-F]{2}", "[0-9a-fA-F]"
_PIECE = re.compile(
    rf"""(?P<plain>[^"\\]+)
    |(?P<pair>\\u{_HIGH}\\u{_LOW})
    |\\u(?P<code>{_HEX}{{4}})
    |\\(?P<char>[^u])""",
    re.VERBOSE | re.DOTALL,
)
_UNFINISHED = re.compile(rf"\\(?:u(?:{_HEX}{{0,3}}|{_HIGH}(?:\\(?:u(?:[dD](?:[c-fC-F]{_HEX}?)?)?)?)?)?)?\Z")
"""An escape whose end is in the next piece."""
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "/": "/"}


class CustomInput:
    """The text in the arguments of a function that stands for a custom tool, as they grow.

    Whatever the pieces, the text is the same. A model may write anything: a wrong escape is taken as it is
    written, and arguments that are not of the expected form are the text themselves.
    """

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._head = ""
        self._rest = ""
        self._has_begun = False
        self._has_ended = False

    def add(self, piece: str) -> str:
        """Takes the next piece of the arguments. Returns what it adds to the text."""
        if self._has_begun:
            return self._decoded(piece)
        self._pieces.append(piece)
        if len(self._head) >= _START_CHARS:
            return ""
        self._head += piece[: _START_CHARS - len(self._head)]
        if (start := _START.match(self._head)) is None:
            return ""
        self._has_begun = True
        return self._decoded("".join(self._pieces)[start.end() :])

    def end(self) -> str:
        """The rest of the text, after the last piece."""
        if self._has_begun:
            return ""
        arguments = "".join(self._pieces)
        try:
            found = orjson.loads(arguments)
        except orjson.JSONDecodeError:
            return arguments
        if isinstance(found, dict):
            found = found.get(INPUT, next(iter(found.values())) if len(found) == 1 else None)
        return found if isinstance(found, str) else arguments

    def _decoded(self, piece: str) -> str:
        text, place, found = self._rest + piece, 0, []
        while place < len(text) and not self._has_ended and _UNFINISHED.match(text, place) is None:
            if match := _PIECE.match(text, place):
                found.append(_unescaped(match))
                place = match.end()
            elif text[place] == '"':
                self._has_ended = True
            else:
                found.append("\\u")
                place += 2
        self._rest = text[place:] if not self._has_ended else ""
        return "".join(found)


def _unescaped(match: re.Match[str]) -> str:
    text = match[0]
    match match.lastgroup:
        case "pair":
            return str(orjson.loads(f'"{text}"'))
        case "code":
            code = chr(int(match["code"], 16))
            return code if not "\ud800" <= code <= "\udfff" else "\ufffd"
        case "char":
            return _ESCAPES.get(match["char"], text)
    return text
