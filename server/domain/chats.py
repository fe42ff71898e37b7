"""Conversations: what a request may hold, the most tokens that it can have, and what its answer says. Pure.

A request has the form of OpenAI's chat API. What decides the bill and what would break a model server is
checked here; what nobody knows is left out, never refused. The answer is stored as the model server's chunks,
a JSON object a line; a daemon can write anything, so whatever is no chunk says nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from common.chats import MEDIA, PASSED, fetched, medium_of, parts_of
from common.documents import DocumentError, parse_object
from server.domain.errors import DomainError, invalid_field

Values = dict[str, Any]

FIELD = "request"
CONTENT_TYPE = "application/jsonl"
"""Of chunks, as the server marks the outputs of chats; no daemon says it."""
MAX_CHOICES = 16
MAX_MESSAGES, MAX_TOOLS, MAX_STOPS = 10_000, 1000, 16
ROLES = ("system", "user", "assistant", "tool", "function")
# Model servers know no `developer`, which is what newer models call the system.
_SYSTEM = ("system", "developer")
_TEXTS = ("text", "input_text", "output_text", "refusal")
_FORMATS = ("text", "json_object", "json_schema")
_RANGES: Mapping[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "min_p": (0, 1),
    "typical_p": (0, 1),
    "repetition_penalty": (0, 10),
    "repeat_penalty": (0, 10),
}
_WHOLE: Mapping[str, tuple[int, int]] = {
    "n": (1, MAX_CHOICES),
    "top_logprobs": (0, 20),
    "top_k": (-1, 1_000_000),
    "seed": (-(2**63), 2**64 - 1),
}
_SAID = ("content", "refusal", "reasoning_content", "reasoning", "thinking")
"""Where a chunk has what the model writes."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation that may be passed to a model server."""

    request: Values
    text_bytes: int
    """Of all that a model reads of it, as JSON, without its media."""
    turns: int
    """Its messages and its tools: around each a model's template may write something."""
    media: int
    """Its pictures, sounds and films."""
    choices: int

    @property
    def spec(self) -> Values:
        """As it is stored with its job."""
        return {
            "request": self.request,
            "text_bytes": self.text_bytes,
            "turns": self.turns,
            "media": self.media,
            "choices": self.choices,
        }

    @property
    def beginning(self) -> str:
        """What the turns of one conversation have in common: its beginning, as a digest."""
        messages = self.request["messages"]
        first = next((n for n, message in enumerate(messages) if message["role"] == "user"), 0)
        return hashlib.sha256(dumped(messages[: first + 1])).hexdigest()


def read(request: bytes) -> Chat:
    """Reads a request, without what is not passed on. Raises INVALID_FIELD with the path of what is wrong."""
    try:
        given = parse_object(request, len(request))
    except DocumentError as error:
        raise invalid_field(FIELD, f"cannot be read: {error}; send a JSON object") from None
    kept = {name: value for name, value in given.items() if name in PASSED and value is not None}
    kept["messages"] = _messages(kept.get("messages"))
    for name, (least, most) in _RANGES.items():
        _check_number(kept, name, least, most)
    for name, (lowest, highest) in _WHOLE.items():
        _check_whole(kept, name, lowest, highest)
    _check_stop(kept)
    _check_tools(kept)
    _check_format(kept)
    if away := fetched(kept):
        raise _wrong(away, "must bring its data along as a data URL in base64: addresses are not fetched")
    try:
        size = len(dumped(kept))
    except UnicodeEncodeError:
        raise invalid_field(FIELD, "has half of a character (a lone surrogate)") from None
    parts = [part for message in kept["messages"] for _, part in parts_of(message)]
    media = [medium_of(part) for part in parts if part.get("type") in MEDIA]
    return Chat(
        kept,
        size - sum(len(medium) for medium in media if isinstance(medium, str)),
        len(kept["messages"]) + len(kept.get("tools", [])),
        len(media),
        kept.get("n", 1),
    )


def of_prompt(system: str | None, prompt: str, temperature: float) -> Chat:
    """The conversation of one question, as clients send it."""
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": prompt})
    return read(dumped({"messages": messages, "temperature": temperature}))


def _messages(given: object) -> list[Values]:
    if not isinstance(given, list) or not given:
        raise _wrong("messages", "must be a list with at least one message")
    if len(given) > MAX_MESSAGES:
        raise _wrong("messages", f"has {len(given)} entries; at most {MAX_MESSAGES} are allowed")
    return [_message(f"messages[{place}]", each) for place, each in enumerate(given)]


def _message(name: str, given: object) -> Values:
    if not isinstance(given, dict):
        raise _wrong(name, "must be an object with role and content")
    role = given.get("role")
    message = {key: value for key, value in given.items() if value is not None}
    message["role"] = role = "system" if role in _SYSTEM else role
    if role not in ROLES:
        raise _wrong(f"{name}.role", "must be system, developer, user, assistant or tool")
    calls = message.get("tool_calls", [])
    if not isinstance(calls, list):
        raise _wrong(f"{name}.tool_calls", "must be a list")
    for place, call in enumerate(calls):
        _check_call(f"{name}.tool_calls[{place}]", call)
    if not calls:
        message.pop("tool_calls", None)
    if role == "tool" and not isinstance(message.get("tool_call_id"), str):
        raise _wrong(f"{name}.tool_call_id", "is required: the id of the tool call that this answers")
    _check_content(f"{name}.content", message)
    return message


def _check_content(name: str, message: Values) -> None:
    content = message.get("content")
    if content is None:
        if message["role"] != "assistant":
            raise _wrong(name, "is required: a text or a list of parts")
        # Templates of many models write "None" for a content that is missing.
        message["content"] = ""
        return
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise _wrong(name, "must be a text or a list of parts")
    parts = [_part(f"{name}[{place}]", part) for place, part in enumerate(content)]
    is_text = all(part["type"] == "text" for part in parts)
    # Not every model server reads parts, and none needs them where all are text.
    message["content"] = "".join(part["text"] for part in parts) if is_text else parts


def _part(name: str, part: object) -> Values:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str):
        raise _wrong(name, "must be an object with a type")
    if kind in _TEXTS:
        text = part.get("text", part.get("refusal"))
        if not isinstance(text, str):
            raise _wrong(f"{name}.text", "must be a text")
        return {"type": "text", "text": text}
    if kind not in MEDIA:
        raise _wrong(f"{name}.type", f"must be text, {', '.join(MEDIA)}")
    return part


def _check_call(name: str, call: object) -> None:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        raise _wrong(name, "must be an object with id and function")
    if not isinstance(function.get("name"), str):
        raise _wrong(f"{name}.function.name", "must be a text")
    arguments = function.get("arguments", "")
    if not isinstance(arguments, str):
        raise _wrong(f"{name}.function.arguments", "must be JSON as a text")


def _check_tools(kept: Values) -> None:
    tools = kept.get("tools", [])
    if not isinstance(tools, list):
        raise _wrong("tools", "must be a list")
    if len(tools) > MAX_TOOLS:
        raise _wrong("tools", f"has {len(tools)} entries; at most {MAX_TOOLS} are allowed")
    for place, tool in enumerate(tools):
        _check_tool(f"tools[{place}]", tool)
    if not tools:
        # Some model servers refuse an empty list, and a choice without a tool.
        for name in ("tools", "tool_choice", "parallel_tool_calls"):
            kept.pop(name, None)
    choice = kept.get("tool_choice")
    if choice is not None and not isinstance(choice, dict) and choice not in ("none", "auto", "required"):
        raise _wrong("tool_choice", "must be none, auto, required, or an object that names a tool")


def _check_tool(name: str, tool: object) -> None:
    if not isinstance(tool, dict) or tool.get("type", "function") != "function":
        raise _wrong(f"{name}.type", "must be function: model servers have no tools of their own here")
    function = tool.get("function")
    if not isinstance(function, dict):
        raise _wrong(f"{name}.function", "must be an object with a name")
    if not isinstance(function.get("name"), str) or not function["name"].strip():
        raise _wrong(f"{name}.function.name", "is required")
    if not isinstance(function.get("parameters", {}), dict | None):
        raise _wrong(f"{name}.function.parameters", "must be a JSON schema, which is an object")


def _check_format(kept: Values) -> None:
    form = kept.get("response_format")
    if form is None:
        return
    kind = form.get("type") if isinstance(form, dict) else None
    if kind not in _FORMATS:
        raise _wrong("response_format.type", f"must be one of {', '.join(_FORMATS)}")
    if kind == "text":
        del kept["response_format"]
    elif kind == "json_schema":
        schema = form.get("json_schema")
        if not isinstance(schema, dict) or not isinstance(schema.get("schema", {}), dict):
            raise _wrong("response_format.json_schema", "must be an object with a name and a schema")


def _check_stop(kept: Values) -> None:
    stop = kept.get("stop")
    texts = [stop] if isinstance(stop, str) else [] if stop is None else stop
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise _wrong("stop", "must be a text or a list of texts that are not empty")
    if len(texts) > MAX_STOPS:
        raise _wrong("stop", f"has {len(texts)} entries; at most {MAX_STOPS} are allowed")
    if texts:
        kept["stop"] = texts
    else:
        kept.pop("stop", None)


def _check_number(kept: Values, name: str, least: float, most: float) -> None:
    value = kept.get(name)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _wrong(name, "must be a number")
    if not least <= value <= most:
        raise _wrong(name, f"must be from {least:g} to {most:g}")


def _check_whole(kept: Values, name: str, least: int, most: int) -> None:
    value = kept.get(name)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(name, "must be a whole number")
    if not least <= value <= most:
        raise _wrong(name, f"must be from {least} to {most}")


def dumped(value: object) -> bytes:
    """A request, or a part of it, as it is offered to a daemon."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _wrong(name: str, text: str) -> DomainError:
    return invalid_field(f"{FIELD}.{name}", text)


# The answer


def is_chat(spec: Mapping[str, Any]) -> bool:
    """Whether the output of a job is chunks."""
    return "chat" in spec


def said(data: bytes) -> str:
    """The text of an answer: what its first choice says. It has no thoughts and no tool calls."""
    texts = []
    for choice in _choices(data):
        content = choice["delta"].get("content")
        if choice.get("index") == 0 and isinstance(content, str):
            texts.append(content)
    return "".join(texts)


def written_bytes(data: bytes) -> int:
    """The bytes of all that the model wrote: texts, thoughts, tool calls."""
    return sum(_written(choice["delta"]) for choice in _choices(data))


def _choices(data: bytes) -> Iterator[Values]:
    """All choices of all chunks that have a delta."""
    for line in data.splitlines():
        try:
            choices = parse_object(line, len(line)).get("choices")
        except DocumentError:
            continue
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and isinstance(choice.get("delta"), dict):
                yield choice


def _written(delta: Values) -> int:
    size = sum(_size(delta.get(name)) for name in _SAID)
    calls = delta.get("tool_calls")
    called = [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    for function in [*(call.get("function") for call in called), delta.get("function_call")]:
        if isinstance(function, dict):
            size += _size(function.get("name")) + _size(function.get("arguments"))
    return size


def _size(text: object) -> int:
    return len(text.encode(errors="replace")) if isinstance(text, str) else 0
