"""A scripted model that takes part in whole conversations of real clients, before `openai_server`.

It answers with a fixed text. Where tools are offered and none has answered yet, it calls one, with the
smallest arguments that its schema allows; where the answer must fit a schema, it writes the smallest that
does. So it does what a good model does in one turn of an agent, fast and always in the same way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from tests.support.openai_server import DONE, Script, Step, event

Values = dict[str, Any]

MODEL = "test/talking"
EMBEDDER = "test/embedding"
TEXT = "It is sunny. PONG-42"
COMMAND = "echo tool-ran"
"""What a tool that runs commands is called with."""
CONTEXT_TOKENS = 200_000
PAUSE_SECONDS = 0.02
"""After each piece: the market suspects a provider whose model writes faster than any can."""
_COMMANDS = ("command", "cmd")
_EDIT = """

hello.py
```python
<<<<<<< SEARCH
print("hello")
=======
print("PONG-42")
>>>>>>> REPLACE
```
"""
"""The edit that aider's tests ask for, in the form that aider asks for."""
_MAX_DEPTH = 12


def talking() -> Script:
    """The script of a server with this model and one that embeds, which notes its requests."""
    return Script(
        models=[{"id": MODEL, "max_model_len": CONTEXT_TOKENS}, {"id": EMBEDDER}],
        answers=answer,
        embeds=[EMBEDDER],
        without_chat=[EMBEDDER],
    )


def answer(request: Values) -> Iterator[Step]:
    """The events of the answer to a request."""
    call = _call(request)
    text = "" if call else _text(request)
    if call:
        yield from _call_events(*call)
    for piece in re.findall(r"\S+\s*|\s+", text):
        yield _chunk({"content": piece})
        yield PAUSE_SECONDS
    yield _chunk({}, "tool_calls" if call else "stop")
    written = len(json.dumps(call)) if call else len(text)
    counts = {"prompt_tokens": _tokens(json.dumps(request)), "completion_tokens": -(-written // 4)}
    yield event(choices=[], usage={**counts, "total_tokens": sum(counts.values())})
    yield DONE


def smallest(schema: object, root: object = None, depth: int = 0) -> Any:
    """A smallest value that a JSON schema allows; commands are harmless ones."""
    root = schema if root is None else root
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return "x"
    if (reference := schema.get("$ref")) is not None:
        return smallest(_referred(root, reference), root, depth + 1)
    for name in ("const", "default"):
        if name in schema:
            return schema[name]
    if schema.get("enum"):
        return schema["enum"][0]
    for name in ("anyOf", "oneOf", "allOf"):
        if schema.get(name):
            return smallest(schema[name][0], root, depth + 1)
    return _smallest_of_type(schema, root, depth)


def _smallest_of_type(schema: Values, root: object, depth: int) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    match kind[0] if isinstance(kind, list) else kind:
        case "object":
            fields = schema.get("properties", {})
            return {
                name: COMMAND if _is_command(name, fields[name]) else smallest(fields[name], root, depth + 1)
                for name in schema.get("required", ())
                if name in fields
            }
        case "array":
            return [smallest(schema.get("items"), root, depth + 1)] * schema.get("minItems", 0)
        case "integer" | "number":
            return max(1, schema.get("minimum", 1))
        case "boolean":
            return False
        case "null":
            return None
    return "Riyadh".ljust(schema.get("minLength", 0), "x")


def _referred(root: object, reference: str) -> object:
    for name in reference.removeprefix("#").strip("/").split("/"):
        root = root.get(name) if isinstance(root, dict) else None
    return root


def _is_command(name: str, schema: object) -> bool:
    return name in _COMMANDS and isinstance(schema, dict) and schema.get("type") == "string"


def _call(request: Values) -> tuple[str, Any] | None:
    """The function to call, with its arguments; None if the answer is a text."""
    choice = request.get("tool_choice")
    has_result = any(message["role"] == "tool" for message in request["messages"])
    tools = [tool["function"] for tool in request.get("tools") or () if tool.get("type") == "function"]
    if not tools or has_result or choice == "none":
        return None
    if isinstance(choice, dict):
        tools = [tool for tool in tools if tool["name"] == choice["function"]["name"]]
    calls = [(tool["name"], smallest(tool.get("parameters") or {"type": "object"})) for tool in tools]
    runs = [call for call in calls if COMMAND in call[1].values()]
    return (runs or calls)[0]


def _call_events(name: str, arguments: Any) -> Iterable[Step]:
    """A call as model servers stream it: its name, then its arguments in pieces."""
    written = json.dumps(arguments)
    half = len(written) // 2
    head = {"index": 0, "id": "call_1", "type": "function", "function": {"name": name, "arguments": ""}}
    yield _chunk({"role": "assistant", "content": None, "tool_calls": [head]})
    for piece in (written[:half], written[half:]):
        yield _chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
        yield PAUSE_SECONDS


def _text(request: Values) -> str:
    form = request.get("response_format") or {}
    match form.get("type"):
        case "json_schema":
            return json.dumps(smallest(form["json_schema"]["schema"]))
        case "json_object":
            return json.dumps({"city": "Riyadh"})
    asks_for_edit = "SEARCH/REPLACE" in json.dumps(request["messages"][0])
    return TEXT + (_EDIT if asks_for_edit else "")


def _chunk(delta: Values, reason: str | None = None) -> bytes:
    return event(choices=[{"index": 0, "delta": delta, "finish_reason": reason}])


def _tokens(text: str) -> int:
    return -(-len(text) // 4)
