"""The scripted model that test_clients puts behind the market: it calls tools, and keeps to schemas."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from tests.support import talking_server
from tests.support.talking_server import COMMAND, TEXT, smallest

CITY: Any = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
SHELL: Any = {"type": "object", "properties": {"cmd": {"type": "string"}}, "required": ["cmd"]}


def tool(name: str, schema: Any) -> Any:
    return {"type": "function", "function": {"name": name, "parameters": schema}}


def choices(**request: Any) -> list[Any]:
    """The choices of the events that answer a request, without what counts or waits."""
    request = {"messages": [{"role": "user", "content": "Hello"}], **request}
    events = [step for step in talking_server.answer(request) if isinstance(step, bytes)]
    assert events.pop() == b"data: [DONE]\n\n"
    found = [json.loads(event.removeprefix(b"data: ")) for event in events]
    assert found.pop()["usage"]["completion_tokens"] > 0
    return [choice for chunk in found for choice in chunk["choices"]]


def text(**request: Any) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in choices(**request))


def called(**request: Any) -> tuple[str, Any]:
    """The name and the arguments of the function that is called."""
    found = choices(**request)
    assert found[-1]["finish_reason"] == "tool_calls"
    calls = [call["function"] for choice in found for call in choice["delta"].get("tool_calls", ())]
    return calls[0]["name"], json.loads("".join(call["arguments"] for call in calls))


@pytest.mark.parametrize(
    "schema",
    [
        CITY,
        {"type": "array", "items": {"type": "integer", "minimum": 5}, "minItems": 2},
        {"$ref": "#/$defs/city", "$defs": {"city": CITY}},
        {"anyOf": [{"type": "null"}, {"type": "string"}]},
        {"enum": ["a", "b"]},
        {"const": 4},
        {"type": ["boolean", "null"]},
        {"type": "string", "minLength": 20},
        {"type": "object", "properties": {"list": {"type": "array"}, "more": CITY}, "required": ["more"]},
    ],
    ids=str,
)
def test_smallest_value_fits_its_schema(schema: Any) -> None:
    jsonschema.validate(smallest(schema), schema)


def test_first_tool_is_called_until_one_has_answered() -> None:
    tools = [tool("get_weather", CITY), tool("other", CITY)]
    assert called(tools=tools) == ("get_weather", {"city": "Riyadh"})
    messages = [{"role": "user", "content": "?"}, {"role": "tool", "content": "sunny"}]
    assert text(tools=tools, messages=messages) == TEXT
    assert text(tools=tools, tool_choice="none") == TEXT


def test_chosen_tool_is_called_and_one_for_commands_before_others() -> None:
    tools = [tool("get_weather", CITY), tool("shell", SHELL), tool("other", CITY)]
    assert called(tools=tools) == ("shell", {"cmd": COMMAND})
    choice = {"type": "function", "function": {"name": "other"}}
    assert called(tools=tools, tool_choice=choice) == ("other", {"city": "Riyadh"})


def test_text_is_the_fixed_one_or_fits_the_wanted_schema() -> None:
    assert text() == TEXT
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
    assert json.loads(text(response_format=form)) == {"city": "Riyadh"}
