"""Requests of OpenAI's Responses API in the form of its chat API: conversation and options.

The input is a list of items: messages, thoughts, calls of tools and their outputs. Items of one role in a
row become one message, because a model's chat template expects a turn to be one: all that the model thought,
wrote and called, or all that the user wrote. Errors name the field as the client wrote it, such as
`input[2].content[1].type`.

Left out silently are what runs on OpenAI's servers (calls of web search, file search, ...), what only OpenAI
can read (`encrypted_content`, compactions), and settings of its service (`store`, `include`, `truncation`,
`service_tier`, `text.verbosity`, ...).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any

import orjson

from gateway.dialects import responses_tools
from gateway.dialects.chunks import THOUGHT
from gateway.dialects.openai_chat import text_or_empty
from gateway.dialects.openai_errors import invalid

Values = dict[str, Any]

_SAME = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
_EFFORTS = {"minimal": "low", "xhigh": "high", "max": "high"}
_ALL_ITEMS = "the marketplace keeps no responses: send the whole conversation as input"
_REFUSED = {
    "previous_response_id": f"cannot be used: {_ALL_ITEMS}",
    "conversation": f"cannot be used: {_ALL_ITEMS}",
    "background": "cannot be true: wait for the response, or stream it",
    "prompt": "cannot be used: the marketplace keeps no prompts. Send instructions and input",
}
_TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")
_SYSTEM = ("system", "developer")
_ROLES = (*_SYSTEM, "user", "assistant")
_DETAILS = ("action", "operation", "arguments")
"""Where the calls of tools that OpenAI defines have their arguments."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """What an item adds to the message of its role."""

    role: str
    parts: tuple[Values, ...] = ()
    """Of the chat API."""
    thought: str = ""
    call: Values | None = None
    call_id: str = ""
    """The call that the output of a tool answers."""


def chat(body: Values, tools: responses_tools.Tools) -> Values:
    """The request without model, stream and most tokens. Raises INVALID_FIELD."""
    for name, text in _REFUSED.items():
        if body.get(name):
            raise invalid(name, text)
    found = {name: value for name in _SAME if (value := body.get(name)) is not None}
    found |= _thinking(body) | _format(body) | responses_tools.options(body, tools)
    if asks_for_logprobs(body):
        found["logprobs"] = True
        if (top := body.get("top_logprobs")) is not None:
            found["top_logprobs"] = top
    return {"messages": _messages(body), **found}


def asks_for_logprobs(body: Values) -> bool:
    """Whether the answer says how likely its tokens were."""
    include = body.get("include")
    return isinstance(include, list) and "message.output_text.logprobs" in include


def object_or_empty(body: Values, name: str) -> Values:
    """An object that may be left out. Raises INVALID_FIELD."""
    value = body.get(name)
    if value is not None and not isinstance(value, dict):
        raise invalid(name, "must be an object")
    return value or {}


def _thinking(body: Values) -> Values:
    effort = text_or_empty(object_or_empty(body, "reasoning").get("effort"))
    if effort == "none":
        # Not every model server knows this effort. The templates of models that can skip thinking know this.
        return {"chat_template_kwargs": {"enable_thinking": False}}
    return {"reasoning_effort": _EFFORTS.get(effort, effort)} if effort else {}


def _format(body: Values) -> Values:
    form = object_or_empty(body, "text").get("format")
    if form is None:
        return {}
    kind = form.get("type") if isinstance(form, dict) else None
    match kind:
        case "text":
            return {}
        case "json_object":
            return {"response_format": {"type": kind}}
        case "json_schema" if isinstance(form.get("schema"), dict):
            fields = ("name", "description", "schema", "strict")
            schema = {name: value for name in fields if (value := form.get(name)) is not None}
            return {"response_format": {"type": kind, "json_schema": {"name": "answer", **schema}}}
        case "json_schema":
            raise invalid("text.format.schema", "is required: the JSON schema of the answer")
    raise invalid("text.format.type", "must be text, json_object or json_schema")


def _messages(body: Values) -> list[Values]:
    turns = _in_templates_order(_turns(body))
    found = [
        message for role, group in groupby(turns, attrgetter("role")) for message in _merged(role, group)
    ]
    if not found:
        raise invalid("input", "must have at least one message")
    return found


def _turns(body: Values) -> Iterator[_Turn]:
    instructions, items = body.get("instructions"), body.get("input")
    if instructions is not None and not isinstance(instructions, str):
        raise invalid("instructions", "must be a text")
    if instructions:
        yield _Turn("system", (_text_part(instructions),))
    if isinstance(items, str):
        yield _Turn("user", (_text_part(items),))
        return
    if not isinstance(items, list):
        raise invalid("input", "is required: a text or a list of items")
    for place, item in enumerate(items):
        if not isinstance(item, dict):
            raise invalid(f"input[{place}]", "must be an object, such as a message with role and content")
        yield from _item(f"input[{place}]", item)


def _in_templates_order(turns: Iterable[_Turn]) -> Iterator[_Turn]:
    """The turns as chat templates accept them: one system message, and images only in the user's messages.

    Codex sends further developer messages within a conversation, which the chat templates of Qwen and others
    refuse. Moved to the front, they would change the start of the prompt, which the model server has cached.
    """
    has_begun = False
    images: tuple[Values, ...] = ()
    for turn in turns:
        if images and turn.role != "tool":
            yield _Turn("user", images)
            images = ()
        if turn.role == "system" and has_begun:
            yield _Turn("user", tuple(_reminder(part) for part in turn.parts))
            continue
        has_begun = has_begun or turn.role != "system"
        if turn.role == "tool":
            images += tuple(part for part in turn.parts if part["type"] != "text")
        yield turn
    if images:
        yield _Turn("user", images)


def _reminder(part: Values) -> Values:
    return _text_part(f"<system-reminder>\n{part.get('text', '')}\n</system-reminder>")


def _merged(role: str, turns: Iterable[_Turn]) -> list[Values]:
    found = list(turns)
    if role == "tool":
        return [{"role": role, "tool_call_id": each.call_id, "content": _output_text(each)} for each in found]
    content = _content(part for each in found for part in each.parts)
    if role != "assistant":
        return [{"role": role, "content": content}]
    calls = [each.call for each in found if each.call is not None]
    if not content and not calls:
        return []  # a thought that nothing follows
    message: Values = {"role": role, "content": content or None}
    if thought := _joined(each.thought for each in found):
        message[THOUGHT] = thought
    return [message | {"tool_calls": calls}] if calls else [message]


def _output_text(turn: _Turn) -> str:
    """The message of a tool holds text only."""
    return _joined(part.get("text", "[An image, which the next message shows.]") for part in turn.parts)


def _item(name: str, item: Values) -> Iterator[_Turn]:
    match item.get("type") or "message":
        case "message":
            yield _message(name, item)
        case "reasoning":
            yield _Turn("assistant", thought=_thought(item))
        case "function_call":
            yield _call(name, item, _text(name, item, "arguments"))
        case "custom_tool_call":
            yield _call(name, item, responses_tools.custom_arguments(_text(name, item, "input")))
        case "function_call_output" | "custom_tool_call_output":
            parts = tuple(_parts(f"{name}.output", item.get("output")))
            yield _Turn("tool", parts, call_id=_text(name, item, "call_id"))
        case "item_reference":
            raise invalid(
                f"{name}.type",
                f"cannot be item_reference: {_ALL_ITEMS}. Many clients do so with store: false",
            )
        case str(kind):
            yield from _openai_tool(kind, item)
        case _:
            raise invalid(f"{name}.type", "must be a text, such as message")


def _openai_tool(kind: str, item: Values) -> Iterator[_Turn]:
    """A call or an output of a tool that OpenAI defines. Without a call id it ran on OpenAI's servers."""
    call_id = text_or_empty(item.get("call_id")) or text_or_empty(item.get("id"))
    if kind.endswith("_call") and isinstance(item.get("call_id"), str):
        details: object = next((item[name] for name in _DETAILS if name in item), {})
        yield _function_call(call_id, kind.removesuffix("_call"), _json(details))
    elif kind.endswith("_call_output") and call_id:
        output = item.get("output", item.get("status", ""))
        yield _Turn("tool", (_text_part(_json(output)),), call_id=call_id)


def _json(value: object) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _message(name: str, item: Values) -> _Turn:
    role, content = item.get("role"), item.get("content")
    if role not in _ROLES:
        raise invalid(f"{name}.role", f"must be one of {', '.join(_ROLES)}")
    parts = _parts(f"{name}.content", content)
    if role == "assistant":
        # A text with annotations is one text in several parts.
        text = "".join(part.get("text", "") for part in parts)
        return _Turn("assistant", (_text_part(text),) if text else ())
    return _Turn("system" if role in _SYSTEM else "user", tuple(parts))


def _thought(item: Values) -> str:
    """What the model thought, or else the summary of it."""
    for name in ("content", "summary"):
        parts = item.get(name)
        texts = (
            [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else ()
        )
        if text := _joined(text for text in texts if isinstance(text, str)):
            return text
    return ""


def _call(name: str, item: Values, arguments: str) -> _Turn:
    tool = responses_tools.flat_name(text_or_empty(item.get("namespace")), _text(name, item, "name"))
    return _function_call(_text(name, item, "call_id"), tool, arguments)


def _function_call(call_id: str, name: str, arguments: str) -> _Turn:
    function = {"name": name, "arguments": arguments}
    return _Turn("assistant", call={"id": call_id, "type": "function", "function": function})


def _parts(name: str, content: object) -> list[Values]:
    if isinstance(content, str):
        return [_text_part(content)]
    if not isinstance(content, list):
        raise invalid(name, "must be a text or a list of parts")
    return [_part(f"{name}[{place}]", part) for place, part in enumerate(content)]


def _part(name: str, part: object) -> Values:
    if not isinstance(part, dict):
        raise invalid(name, "must be an object with a type, such as input_text")
    match part.get("type"):
        case kind if kind in _TEXTS:
            return _text_part(_text(name, part, "text"))
        case "refusal":
            return _text_part(_text(name, part, "refusal"))
        case "input_image":
            return {"type": "image_url", "image_url": _image(name, part)}
        case "input_audio" if isinstance(part.get("input_audio"), dict):
            return {"type": "input_audio", "input_audio": part["input_audio"]}
        case "input_file":
            raise invalid(
                f"{name}.type",
                "cannot be input_file: send the text of the file as input_text, or its pages as input_image",
            )
    raise invalid(f"{name}.type", "must be input_text, output_text, refusal, input_image or input_audio")


def _image(name: str, part: Values) -> Values:
    url = part.get("image_url")
    if not isinstance(url, str):
        raise invalid(f"{name}.image_url", "is required: a data URL. The marketplace keeps no files")
    detail = part.get("detail")
    return {"url": url, "detail": detail} if isinstance(detail, str) else {"url": url}


def _content(parts: Iterable[Values]) -> str | list[Values]:
    """A text where that is enough: the chat templates of some models read no parts."""
    found = list(parts)
    if all(part["type"] == "text" for part in found):
        return _joined(part["text"] for part in found)
    return found


def _joined(texts: Iterable[str]) -> str:
    return "\n\n".join(text for text in texts if text)


def _text_part(text: str) -> Values:
    return {"type": "text", "text": text}


def _text(name: str, values: Values, field: str) -> str:
    """A required text; the name is that of the object that holds it."""
    value = values.get(field)
    if not isinstance(value, str):
        raise invalid(f"{name}.{field}", "is required and must be a text")
    return value
