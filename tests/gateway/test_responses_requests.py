"""Requests of OpenAI's Responses API, in the form of its chat API."""

from __future__ import annotations

import itertools
import json
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from gateway.dialects import Asked, Dialect
from gateway.dialects.openai_responses import OpenAIResponses
from gateway.dialects.responses_tools import CustomInput, custom_arguments
from gateway.errors import ApiError

Values = dict[str, Any]

DIALECT: Dialect = OpenAIResponses()
ARABIC = "مرحبا 🌍"
PICTURE = "data:image/png;base64,iVBORw0KGgo="
PATCH = '*** Begin Patch\n*** Add File: a.txt\n+"مرحبا" \\d\t🌍\n*** End Patch\n'
GRAMMAR = 'start: "*** Begin Patch" LF'


def function(name: str, **more: Any) -> Values:
    parameters = {"type": "object", "properties": {"cmd": {"type": "string"}}}
    return {
        "type": "function",
        "name": name,
        "description": f"Does {name}.",
        "parameters": parameters,
        **more,
    }


APPLY_PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edits files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": GRAMMAR},
}
AGENTS = {
    "type": "namespace",
    "name": "agents_v1",
    "description": "Tools for agents.",
    "tools": [function("spawn"), {"type": "custom", "name": "script"}],
}
WEB_SEARCH = {"type": "web_search", "external_web_access": True}
CODEX_TOOLS = [
    *(function(name, strict=False) for name in ("exec_command", "write_stdin", "view_image", "get_goal")),
    APPLY_PATCH,
    AGENTS,
    function("create_goal"),
    function("update_goal"),
    WEB_SEARCH,
]


def says(role: str, *texts: str, kind: str = "input_text") -> Values:
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text} for text in texts]}


def thinks(text: str, summary: bool = False) -> Values:
    if summary:
        return {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": text}]}
    content = [{"type": "reasoning_text", "text": text}]
    return {"type": "reasoning", "summary": [], "content": content, "encrypted_content": "gAAAA"}


def calls(name: str, arguments: str, call_id: str, **more: Any) -> Values:
    return {"type": "function_call", "name": name, "arguments": arguments, "call_id": call_id, **more}


def gives(call_id: str, output: Any, kind: str = "function_call_output") -> Values:
    return {"type": kind, "call_id": call_id, "output": output}


CODEX = {
    "model": "some-model",
    "stream": True,
    "input": [
        says("developer", "You are Codex."),
        says("developer", "Skills: none."),
        says("user", "<environment_context/>"),
        says("user", "Fix it."),
        thinks("I should look.", summary=True),
        says("assistant", "Let me look.", kind="output_text"),
        calls("exec_command", '{"cmd":"ls"}', "call_1", id="fc_1", status="completed"),
        calls("exec_command", '{"cmd":"pwd"}', "call_2"),
        gives("call_1", "a.txt"),
        gives("call_2", "/work"),
        {"type": "custom_tool_call", "name": "apply_patch", "input": PATCH, "call_id": "call_3"},
        gives("call_3", "Success.", "custom_tool_call_output"),
        says("developer", "The sandbox is read-only now."),
        says("user", "Go on."),
    ],
    "tools": CODEX_TOOLS,
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"summary": "auto"},
    "store": False,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "session-1",
    "client_metadata": {"a": "b"},
}


def read(items: Any = "Hello", **more: Any) -> Asked:
    return DIALECT.read({"model": "m", "input": items, **more})


def chat(items: Any = "Hello", **more: Any) -> Values:
    return read(items, **more).chat


def messages(*items: Values, **more: Any) -> list[Values]:
    found: list[Values] = chat(list(items), **more)["messages"]
    return found


def refusal(items: Any = "Hello", **more: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(items, **more)
    assert caught.value.code == "INVALID_FIELD"
    return caught.value


def called(name: str, arguments: str, call_id: str) -> Values:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


# Conversations


def test_request_of_codex_is_a_conversation_with_its_tools() -> None:
    asked = DIALECT.read(CODEX)
    assert (asked.model, asked.is_stream, asked.cache_key) == ("some-model", True, "session-1")
    assert asked.max_tokens is None
    assert set(asked.chat) == {"messages", "tools", "tool_choice", "parallel_tool_calls"}
    assert asked.chat["messages"] == [
        {"role": "system", "content": "You are Codex.\n\nSkills: none."},
        {"role": "user", "content": "<environment_context/>\n\nFix it."},
        {
            "role": "assistant",
            "content": "Let me look.",
            "reasoning_content": "I should look.",
            "tool_calls": [
                called("exec_command", '{"cmd":"ls"}', "call_1"),
                called("exec_command", '{"cmd":"pwd"}', "call_2"),
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "a.txt"},
        {"role": "tool", "tool_call_id": "call_2", "content": "/work"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [called("apply_patch", custom_arguments(PATCH), "call_3")],
        },
        {"role": "tool", "tool_call_id": "call_3", "content": "Success."},
        {
            "role": "user",
            "content": "<system-reminder>\nThe sandbox is read-only now.\n</system-reminder>\n\nGo on.",
        },
    ]
    assert [each["function"]["name"] for each in asked.chat["tools"]] == [
        *("exec_command", "write_stdin", "view_image", "get_goal", "apply_patch"),
        *("agents_v1__spawn", "agents_v1__script", "create_goal", "update_goal"),
    ]


def test_text_is_one_message_of_the_user_after_the_instructions() -> None:
    assert chat(ARABIC, instructions="Be brief.")["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": ARABIC},
    ]


def test_messages_need_no_type_and_no_parts() -> None:
    found = messages({"role": "system", "content": "S"}, {"type": None, "role": "user", "content": "U"})
    assert found == [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]


def test_instructions_and_leading_developer_messages_are_one_system_message() -> None:
    found = messages(says("developer", "b"), says("system", "c"), says("user", "d"), instructions="a")
    assert found == [{"role": "system", "content": "a\n\nb\n\nc"}, {"role": "user", "content": "d"}]


def test_images_of_the_user_are_parts() -> None:
    parts = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": PICTURE, "detail": "low"},
        {"type": "input_image", "image_url": PICTURE},
    ]
    assert messages({"role": "user", "content": parts}) == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": PICTURE, "detail": "low"}},
                {"type": "image_url", "image_url": {"url": PICTURE}},
            ],
        }
    ]


def test_answer_of_several_items_is_one_message() -> None:
    refused = {"type": "refusal", "refusal": "No."}
    found = messages(
        says("user", "q"),
        thinks("t1"),
        says("assistant", "a", "b", kind="output_text"),
        {"role": "assistant", "content": [refused]},
        thinks("t2"),
        calls("f", "{}", "c1"),
        gives("c1", "r"),
    )
    assert found[1] == {
        "role": "assistant",
        "content": "ab\n\nNo.",
        "reasoning_content": "t1\n\nt2",
        "tool_calls": [called("f", "{}", "c1")],
    }


def test_thought_that_nothing_follows_is_dropped() -> None:
    found = messages(says("user", "a"), thinks("t"), says("user", "b"), thinks("t"))
    assert [message["role"] for message in found] == ["user", "user"]


def test_output_of_a_tool_is_text_and_its_images_follow_all_outputs() -> None:
    shown = [{"type": "input_text", "text": "Here:"}, {"type": "input_image", "image_url": PICTURE}]
    found = messages(
        says("user", "q"),
        calls("f", "{}", "c1"),
        calls("g", "{}", "c2"),
        gives("c1", shown),
        gives("c2", "2"),
    )
    assert found[2:] == [
        {
            "role": "tool",
            "tool_call_id": "c1",
            "content": "Here:\n\n[An image, which the next message shows.]",
        },
        {"role": "tool", "tool_call_id": "c2", "content": "2"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PICTURE}}]},
    ]


def test_calls_keep_the_name_that_the_model_saw() -> None:
    found = messages(says("user", "q"), calls("spawn", "{}", "c1", namespace="agents_v1"), gives("c1", ""))
    assert found[1]["tool_calls"] == [called("agents_v1__spawn", "{}", "c1")]
    assert found[2] == {"role": "tool", "tool_call_id": "c1", "content": ""}


def test_calls_of_the_clients_ready_made_tools_stay_and_those_of_servers_are_dropped() -> None:
    action = {"type": "exec", "command": ["ls"], "env": {}}
    found = messages(
        says("user", "q"),
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"query": "x"}},
        {"type": "mcp_call", "id": "mcp_1", "name": "f", "arguments": "{}", "output": "r"},
        {"type": "compaction", "encrypted_content": "gAAAA"},
        {"type": "local_shell_call", "id": "lsh_1", "call_id": "c1", "action": action},
        {"type": "local_shell_call_output", "id": "c1", "output": "a.txt"},
        {"type": "shell_call", "call_id": "c2", "action": action},
        {"type": "shell_call_output", "call_id": "c2", "output": [{"stdout": "b.txt"}]},
    )
    assert found[1:] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [called("local_shell", json.dumps(action, separators=(",", ":")), "c1")],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "a.txt"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [called("shell", json.dumps(action, separators=(",", ":")), "c2")],
        },
        {"role": "tool", "tool_call_id": "c2", "content": '[{"stdout":"b.txt"}]'},
    ]


# Tools


def test_function_is_one_of_the_chat_api() -> None:
    tool = function("f", strict=True)
    assert chat(tools=[tool])["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "f",
                "description": "Does f.",
                "parameters": tool["parameters"],
                "strict": True,
            },
        }
    ]


def test_custom_tool_is_a_function_with_one_text() -> None:
    (found,) = chat(tools=[APPLY_PATCH])["tools"]
    assert found["function"]["description"] == (
        f"Edits files.\n\nThe input must match this lark grammar:\n{GRAMMAR}"
    )
    assert found["function"]["parameters"]["required"] == ["input"]
    assert set(found["function"]["parameters"]["properties"]) == {"input"}


def test_tools_within_the_input_count() -> None:
    # Codex sends those of its newest models so.
    added = {"type": "additional_tools", "role": "developer", "tools": [AGENTS]}
    found = chat([added, says("user", "q")])
    assert [each["function"]["name"] for each in found["tools"]] == ["agents_v1__spawn", "agents_v1__script"]
    assert found["messages"] == [{"role": "user", "content": "q"}]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("none", "none"),
        ("required", "required"),
        ({"type": "function", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
        (
            {"type": "custom", "name": "apply_patch"},
            {"type": "function", "function": {"name": "apply_patch"}},
        ),
        (
            {"type": "function", "name": "spawn", "namespace": "agents_v1"},
            {"type": "function", "function": {"name": "agents_v1__spawn"}},
        ),
        ({"type": "web_search_preview"}, None),
    ],
)
def test_choice_of_a_tool_is_that_of_the_chat_api(choice: Any, expected: Any) -> None:
    found = chat(tools=[function("f"), APPLY_PATCH, AGENTS, WEB_SEARCH], tool_choice=choice)
    assert found.get("tool_choice") == expected


def test_allowed_tools_are_the_only_ones() -> None:
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]}
    found = chat(tools=[function("f"), function("g")], tool_choice=choice)
    assert ([each["function"]["name"] for each in found["tools"]], found["tool_choice"]) == (
        ["g"],
        "required",
    )


def test_without_a_tool_there_is_no_choice() -> None:
    found = chat(
        tools=[WEB_SEARCH, {"type": "local_shell"}], tool_choice="required", parallel_tool_calls=False
    )
    assert set(found) == {"messages"}


# Options


def test_options_have_the_names_of_the_chat_api() -> None:
    schema = {"type": "object", "properties": {}}
    asked = read(
        temperature=0.5,
        top_p=0.9,
        max_output_tokens=7,
        reasoning={"effort": "high", "summary": "auto"},
        text={
            "format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True},
            "verbosity": "low",
        },
        include=["message.output_text.logprobs"],
        top_logprobs=3,
        store=True,
        truncation="auto",
        user="u",
        metadata={"a": "b"},
        service_tier="flex",
        safety_identifier="s",
        stream_options={"include_obfuscation": False},
    )
    assert asked.max_tokens == 7
    assert asked.chat == {
        "messages": [{"role": "user", "content": "Hello"}],
        "temperature": 0.5,
        "top_p": 0.9,
        "reasoning_effort": "high",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": schema, "strict": True},
        },
        "logprobs": True,
        "top_logprobs": 3,
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"top_logprobs": 3}, {}),
        ({"text": {"format": {"type": "text"}}}, {}),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        ({"reasoning": {"effort": "minimal"}}, {"reasoning_effort": "low"}),
        ({"reasoning": {"effort": "xhigh"}}, {"reasoning_effort": "high"}),
        ({"reasoning": {"effort": "none"}}, {"chat_template_kwargs": {"enable_thinking": False}}),
        ({"background": False, "previous_response_id": None, "conversation": None}, {}),
    ],
)
def test_option_becomes(given: Values, expected: Values) -> None:
    assert chat(**given) == {"messages": [{"role": "user", "content": "Hello"}], **expected}


# Refusals


@pytest.mark.parametrize(
    ("given", "field", "remedy"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "whole conversation as input"),
        ({"conversation": {"id": "conv_1"}}, "conversation", "whole conversation as input"),
        ({"background": True}, "background", "stream it"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "instructions"),
        ({"model": ""}, "model", "/v1/models"),
        ({"input": None}, "input", "a list of items"),
        ({"input": []}, "input", "at least one message"),
        ({"input": ["x"]}, "input[0]", "role and content"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type", "store: false"),
        ({"input": [{"type": 5}]}, "input[0].type", "message"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role", "assistant"),
        ({"input": [{"role": "user", "content": 5}]}, "input[0].content", "list of parts"),
        ({"input": [says("user", "x", kind="input_text_")]}, "input[0].content[0].type", "input_text"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_data": "x"}]}]},
            "input[0].content[0].type",
            "input_text",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0].image_url",
            "data URL",
        ),
        (
            {"input": [{"type": "function_call", "name": "f", "call_id": "c"}]},
            "input[0].arguments",
            "required",
        ),
        ({"input": [gives("c", {"a": 1})]}, "input[0].output", "list of parts"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id", "required"),
        ({"instructions": ["x"]}, "instructions", "text"),
        ({"tools": {}}, "tools", "list"),
        ({"tools": [5]}, "tools[0]", "type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "required"),
        ({"tools": [{**AGENTS, "tools": [{"type": "custom"}]}]}, "tools[0].tools[0].name", "required"),
        ({"tool_choice": "any"}, "tool_choice", "required"),
        ({"tool_choice": {"type": "function", "name": "g"}}, "tool_choice.name", "in tools"),
        ({"text": "json"}, "text", "object"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "json_schema"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema", "JSON schema"),
        ({"reasoning": 5}, "reasoning", "object"),
        ({"metadata": 5}, "metadata", "object"),
        ({"max_output_tokens": 0}, "max_output_tokens", "at least 1"),
    ],
)
def test_refusal_names_field_and_remedy(given: Values, field: str, remedy: str) -> None:
    error = refusal(**{"items": given.pop("input", "Hello"), **given})
    assert error.facts["field"] == field
    assert error.text.startswith(f"{field} ")
    assert remedy in error.text


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from(["", "message", "function_call", "user", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "role", "content", "output", "call_id", "name", "tools", "format", "text"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
FIELDS = ["input", "tools", "tool_choice", "text", "reasoning", "include", "instructions", "metadata"]


@hypothesis.given(st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_any_request_is_read_or_refused(body: Values) -> None:
    codes = []
    try:
        json.dumps(DIALECT.read({"model": "m", **body}).chat)
    except ApiError as error:
        codes.append(error.code)
    assert codes in ([], ["INVALID_FIELD"])


# The text of custom tools


def fed(*pieces: str) -> str:
    found = CustomInput()
    return "".join([*map(found.add, pieces), found.end()])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (custom_arguments(PATCH), PATCH),
        (json.dumps({"input": PATCH}, indent=4), PATCH),
        ('{"input": "a\nb"}', "a\nb"),
        (r'{"input": "\d \U \x \u12"}', r"\d \U \x \u12"),
        (r'{"input": "\ud83d"}', "\ufffd"),
        (r'{"input": "\ud83d\n\udf0d"}', "\ufffd\n\ufffd"),
        ('{"input": "half', "half"),
        (r'{"input": "half\ud83', "half"),
        ('{"input": "a"} {"input": "b"}', "a"),
        ('{"why": "x", "input": "a"}', "a"),
        ('{"patch": "a"}', "a"),
        ('"a"', "a"),
        (PATCH, PATCH),
        ('{"input": 5}', '{"input": 5}'),
        ("", ""),
    ],
)
def test_text_of_a_custom_tool_is_found_in_what_a_model_writes(arguments: str, expected: str) -> None:
    assert fed(arguments) == expected
    assert fed(*arguments) == expected


@hypothesis.given(
    st.text() | st.text('{}"\\ud83c0fn :inpt', max_size=40),
    st.booleans(),
    st.lists(st.integers(0, 400), max_size=8),
)
def test_text_of_a_custom_tool_does_not_depend_on_the_pieces(
    text: str, is_raw: bool, cuts: list[int]
) -> None:
    arguments = f'{{"input": "{text}' if is_raw else json.dumps({"input": text})
    places = [0, *sorted(min(cut, len(arguments)) for cut in cuts), len(arguments)]
    pieces = [arguments[start:end] for start, end in itertools.pairwise(places)]
    found = fed(*pieces)
    assert found == fed(arguments)
    assert is_raw or found == text
    found.encode()
