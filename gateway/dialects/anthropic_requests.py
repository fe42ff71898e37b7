"""Requests of Anthropic's Messages API in the form of OpenAI's chat API: conversation, tools and options.

Errors name the field as the client wrote it, such as `messages[2].content[1].type`. Markers for Anthropic's
service (`cache_control`, `citations`, `caller`, ...) are ignored wherever they are.

What runs on Anthropic's servers cannot run here. Such tools (web search, web fetch, code execution, tool
search, MCP servers, ...) are left out silently, because clients such as Claude Code send them without need.
Their calls and results in earlier answers are left out too; the text that was written from them stays. Tools
that run at the client but have no schema (bash, text editor, computer, memory, ...) are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import orjson

from gateway.dialects.chunks import THOUGHT
from gateway.dialects.openai_chat import text_or_empty
from gateway.dialects.openai_errors import invalid

Values = dict[str, Any]
Block = tuple[str, Values]
"""The name of a block's field, and the block, whose `type` is a text."""

_BILLING = re.compile(r"\Ax-anthropic-billing-header:[^\n]*\n*")
_SERVER_TOOLS = (
    "web_search_",
    "web_fetch_",
    "code_execution_",
    "tool_search_tool_",
    "advisor_",
    "mcp_toolset",
)
_SERVER_BLOCKS = ("redacted_thinking", "server_tool_use", "mcp_tool_use", "mcp_tool_listing", "fallback")
_SAME = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "stop_sequences": "stop"}
_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
_THINKS = {"enabled": True, "disabled": False}


def chat(body: Values) -> Values:
    """The request without model, stream and most tokens. Raises INVALID_FIELD."""
    messages = _messages(body)
    found: Values = {"messages": messages, **_tools(body), **_output(body)}
    found |= {ours: value for theirs, ours in _SAME.items() if (value := body.get(theirs)) is not None}
    if (thinks := _THINKS.get(text_or_empty(_object(body, "thinking").get("type")))) is not None:
        # `adaptive` leaves the choice to the model, as sending nothing does. Claude Code sends it all the
        # time, and vLLM refuses these arguments for models with Mistral's tokenizers.
        found["chat_template_kwargs"] = {"enable_thinking": thinks}
    last = messages[-1]
    if last["role"] == "assistant" and last["content"] and "tool_calls" not in last:
        # Anthropic's API continues the assistant's last message. vLLM and SGLang do so only when asked.
        found |= {"continue_final_message": True, "add_generation_prompt": False}
    return found


def eager_tools(body: Values) -> frozenset[str]:
    """The names of the tools whose input the client wants as it is written, valid or not.

    The body is one that `chat` accepts, so its tools are objects.
    """
    eager = [tool for tool in body.get("tools") or [] if tool.get("eager_input_streaming") is True]
    return frozenset(text_or_empty(tool.get("name")) for tool in eager)


def _output(body: Values) -> Values:
    """The schema of the answer, also under its older name, and how much the model thinks."""
    config = _object(body, "output_config")
    found: Values = {}
    name, form = "output_config.format", config.get("format")
    if form is None:
        name, form = "output_format", body.get("output_format")
    if form is not None:
        schema = form.get("schema") if isinstance(form, dict) and form.get("type") == "json_schema" else None
        if not isinstance(schema, dict):
            raise invalid(name, 'must be an object such as {"type": "json_schema", "schema": {...}}')
        found["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema},
        }
    if effort := _EFFORTS.get(text_or_empty(config.get("effort"))):
        found["reasoning_effort"] = effort
    return found


def _tools(body: Values) -> Values:
    given = body.get("tools") or []
    if not isinstance(given, list):
        raise invalid("tools", "must be a list of tools")
    tools = [tool for place, each in enumerate(given) if (tool := _tool(f"tools[{place}]", each))]
    if not tools:
        return {}
    names = [tool["function"]["name"] for tool in tools]
    left_out = [each.get("name") for each in given if each.get("name") not in names]
    return {"tools": tools, **_tool_choice(_object(body, "tool_choice"), names, left_out)}


def _tool(name: str, given: object) -> Values | None:
    """None for a tool of Anthropic's servers."""
    if not isinstance(given, dict):
        raise invalid(name, "must be an object with name and input_schema")
    kind = given.get("type")
    if isinstance(kind, str) and kind.startswith(_SERVER_TOOLS):
        return None
    if kind not in (None, "custom"):
        raise invalid(
            f"{name}.type",
            "must be custom: only Anthropic's models know the input of its ready-made tools. "
            "Describe the tool's input with an input_schema",
        )
    function: Values = {"name": _text(given, name, "name")}
    if description := text_or_empty(given.get("description")):
        function["description"] = description
    if not isinstance(given.get("input_schema"), dict):
        raise invalid(f"{name}.input_schema", "is required: the JSON schema of the tool's input")
    function["parameters"] = given["input_schema"]
    if given.get("strict") is True:
        function["strict"] = True
    return {"type": "function", "function": function}


def _tool_choice(choice: Values, names: list[str], left_out: list[Any]) -> Values:
    """The choice among the tools that are there; one that was left out is not demanded."""
    name = choice.get("name")
    found: Values = {"parallel_tool_calls": False} if choice.get("disable_parallel_tool_use") is True else {}
    match choice.get("type"):
        case None if not choice:
            return found
        case "auto" | "none" as same:
            return found | {"tool_choice": same}
        case "any":
            return found | {"tool_choice": "required"}
        case "tool" if name in names:
            return found | {"tool_choice": {"type": "function", "function": {"name": name}}}
        case "tool" if name in left_out:
            return found
        case "tool":
            raise invalid("tool_choice.name", "must be the name of a tool in tools")
    raise invalid("tool_choice.type", "must be auto, any, tool or none")


def _messages(body: Values) -> list[Values]:
    found: list[Values] = []
    for role, blocks in _turns(body):
        match role:
            case "system" if content := _content(part for block in blocks for part in _system_parts(block)):
                found.append({"role": "system", "content": content})
            case "user":
                found += _user(blocks)
            case "assistant":
                found.append(_assistant(blocks))
    return found


def _turns(body: Values) -> list[tuple[str, list[Block]]]:
    """The blocks of each turn. Messages of one role in a row are one turn, as in Anthropic's API."""
    given = body.get("messages")
    if not isinstance(given, list) or not given:
        raise invalid("messages", "must be a list with at least one message")
    turns = [("system", _blocks("system", body.get("system") or []))]
    for place, each in enumerate(given):
        name = f"messages[{place}]"
        role = each.get("role") if isinstance(each, dict) else None
        if role not in ("user", "assistant", "system"):
            raise invalid(f"{name}.role", "must be user, assistant or system")
        blocks = _blocks(f"{name}.content", each.get("content"))
        if role == "system" and len(turns) > 1:
            role, blocks = "user", _reminders(blocks)
        if turns[-1][0] == role:
            turns[-1][1].extend(blocks)
        else:
            turns.append((role, blocks))
    if len(turns) == 1:
        raise invalid("messages", "must have a message of the user")
    return turns


def _reminders(blocks: list[Block]) -> list[Block]:
    """A system message within the conversation as texts of the user, in the tag that Claude Code uses.

    Claude Code sends such messages, and the chat templates of Qwen and others refuse them. Moved to the
    front, they would change the start of the prompt, which the model server has cached.
    """
    texts = [(name, text) for name, block in blocks for text in _texts(_system_parts((name, block)))]
    return [
        (name, {"type": "text", "text": f"<system-reminder>\n{text}\n</system-reminder>"})
        for name, text in texts
    ]


def _system_parts(block: Block) -> list[Values]:
    name, values = block
    if values["type"] != "text":
        raise invalid(f"{name}.type", "must be text in a system prompt")
    # Claude Code puts a line for Anthropic's billing first and changes it with each request: nothing after it
    # would ever be found in a model server's cache.
    return [_text_part(_BILLING.sub("", _text(values, name, "text")))]


def _user(blocks: list[Block]) -> list[Values]:
    """The results of tools, which must follow their calls, and then the rest."""
    results: list[Values] = []
    images: list[Values] = []
    parts: list[Values] = []
    for name, block in blocks:
        if block["type"] == "tool_result":
            result, shown = _tool_result(name, block)
            results.append(result)
            images += shown
        else:
            parts += _parts(name, block)
    if results and not images and not parts:
        return results
    return [*results, {"role": "user", "content": _content([*images, *parts])}]


def _tool_result(name: str, block: Values) -> tuple[Values, list[Values]]:
    """The message of a tool, which holds text only, and the images for the user's message after it."""
    blocks = _blocks(f"{name}.content", block.get("content") or "")
    parts = [part for at, each in blocks for part in _parts(at, each)]
    images = [part for part in parts if part["type"] == "image_url"]
    text = _joined(part.get("text", "[An image, which the next message shows.]") for part in parts)
    if block.get("is_error") is True:
        text = f"Error: {text}" if text else "Error"
    return {"role": "tool", "tool_call_id": _text(block, name, "tool_use_id"), "content": text}, images


def _assistant(blocks: list[Block]) -> Values:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[Values] = []
    for name, block in blocks:
        match block["type"]:
            case "text":
                texts.append(_text(block, name, "text"))
            case "thinking":
                thoughts.append(_text(block, name, "thinking"))
            case "tool_use":
                calls.append(_tool_call(name, block))
            case kind if kind not in _SERVER_BLOCKS and not kind.endswith("_tool_result"):
                raise _unknown(name, kind, "an assistant's message")
    # An answer with citations is one text in many blocks.
    message: Values = {"role": "assistant", "content": "".join(texts) or (None if calls else "")}
    if thought := "".join(thoughts):
        message[THOUGHT] = thought
    if calls:
        message["tool_calls"] = calls
    return message


def _tool_call(name: str, block: Values) -> Values:
    arguments = orjson.dumps(_object(block, "input", name)).decode()
    function = {"name": _text(block, name, "name"), "arguments": arguments}
    return {"id": _text(block, name, "id"), "type": "function", "function": function}


def _parts(name: str, block: Values) -> list[Values]:
    """The parts for a block of a user's message or of a tool's result."""
    match block["type"]:
        case "document":
            return _document(name, block)
        case "search_result":
            blocks = _blocks(f"{name}.content", block.get("content") or "")
            texts = _texts(part for at, each in blocks for part in _plain_parts(at, each))
            return [_text_part(_joined([_heading(block, "title", "source"), *texts]))]
        case "tool_reference":
            return [_text_part(f"The tool {_text(block, name, 'tool_name')} is available.")]
    return _plain_parts(name, block)


def _plain_parts(name: str, block: Values) -> list[Values]:
    match block["type"]:
        case "text":
            return [_text_part(_text(block, name, "text"))]
        case "image":
            return [{"type": "image_url", "image_url": {"url": _image_url(name, block)}}]
    raise _unknown(name, block["type"], "this place")


def _image_url(name: str, block: Values) -> str:
    name, source = f"{name}.source", _object(block, "source", name)
    match source.get("type"):
        case "base64":
            return f"data:{_text(source, name, 'media_type')};base64,{_text(source, name, 'data')}"
        case "url":
            return _text(source, name, "url")
    raise invalid(f"{name}.type", "must be base64: the marketplace keeps no files of Anthropic's API")


def _document(name: str, block: Values) -> list[Values]:
    name, source = f"{name}.source", _object(block, "source", name)
    match source.get("type"):
        case "text":
            parts = [_text_part(_text(source, name, "data"))]
        case "content":
            blocks = _blocks(f"{name}.content", source.get("content"))
            parts = [part for at, each in blocks for part in _plain_parts(at, each)]
        case _:
            raise invalid(f"{name}.type", "must be text: send the document's text, or its pages as images")
    heading = _heading(block, "title", "context")
    return [_text_part(heading), *parts] if heading else parts


def _heading(block: Values, *names: str) -> str:
    return "\n".join(text for name in names if (text := text_or_empty(block.get(name))))


def _blocks(name: str, content: object) -> list[Block]:
    """The blocks of a content; a text is a block under the same name."""
    if isinstance(content, str):
        return [(name, {"type": "text", "text": content})]
    if not isinstance(content, list):
        raise invalid(name, "must be a text or a list of content blocks")
    for place, block in enumerate(content):
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise invalid(f"{name}[{place}]", "must be an object with a type, such as text")
    return [(f"{name}[{place}]", block) for place, block in enumerate(content)]


def _content(parts: Iterable[Values]) -> str | list[Values]:
    """A text where that is enough: the chat templates of some models read no parts."""
    found = list(parts)
    return _joined(_texts(found)) if all(part["type"] == "text" for part in found) else found


def _texts(parts: Iterable[Values]) -> list[str]:
    return [text for part in parts if (text := part.get("text"))]


def _joined(texts: Iterable[str]) -> str:
    return "\n\n".join(text for text in texts if text)


def _text_part(text: str) -> Values:
    return {"type": "text", "text": text}


def _text(values: Values, name: str, field: str) -> str:
    """A required text; the name is that of the object that holds it."""
    value = values.get(field)
    if not isinstance(value, str):
        raise invalid(f"{name}.{field}", "is required and must be a text")
    return value


def _object(values: Values, field: str, name: str = "") -> Values:
    """An object that may be left out."""
    value = values.get(field)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(f"{name}.{field}" if name else field, "must be an object")
    return value


def _unknown(name: str, kind: str, place: str) -> Exception:
    return invalid(f"{name}.type", f"is {kind[:50]}, a kind of block that {place} cannot have")
