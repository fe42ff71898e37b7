"""Requests of Anthropic's Messages API as chats, and what of them is refused."""

from __future__ import annotations

import json
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from gateway.dialects import Asked, Dialect
from gateway.dialects.anthropic_messages import AnthropicMessages, Conversation, count_body, counted
from gateway.errors import ApiError

Values = dict[str, Any]

DIALECT = AnthropicMessages()
HELLO: Values = {"role": "user", "content": "Hello"}
ARABIC = "مرحبا 🌍"
PIXEL = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
PIXEL_PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
TOOL: Values = {"name": "look", "description": "Looks.", "input_schema": {"type": "object"}}
FUNCTION: Values = {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}


def body(*messages: Values, **more: Any) -> Values:
    return {"model": "m", "max_tokens": 100, "messages": list(messages) or [HELLO], **more}


def chat(*messages: Values, **more: Any) -> Values:
    return DIALECT.read(body(*messages, **more)).chat


def sent(*messages: Values, **more: Any) -> list[Values]:
    found: list[Values] = chat(*messages, **more)["messages"]
    return found


def user(*blocks: Values) -> Values:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Values) -> Values:
    return {"role": "assistant", "content": list(blocks)}


def text(value: str, **more: Any) -> Values:
    return {"type": "text", "text": value, **more}


def use(call_id: str, name: str = "look", **arguments: Any) -> Values:
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}


def result(call_id: str, content: Any = None, **more: Any) -> Values:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **more}


def test_dialect_has_the_shape_of_all_dialects() -> None:
    dialect: Dialect = DIALECT
    asked: Asked = dialect.read(body(stream=True))
    assert (asked.model, asked.is_stream, asked.max_tokens, asked.cache_key) == ("m", True, 100, "")


def test_plain_request_becomes_a_chat() -> None:
    found = chat(system="Be brief.", temperature=0.5, top_p=0.9, top_k=40, stop_sequences=["END"])
    assert found == {
        "messages": [{"role": "system", "content": "Be brief."}, HELLO],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "stop": ["END"],
    }


def test_what_only_concerns_anthropic_is_ignored() -> None:
    ignored = {
        "metadata": {"user_id": "u"},
        "service_tier": "auto",
        "container": "c",
        "mcp_servers": [{"type": "url"}],
        "context_management": {"edits": []},
        "betas": ["x"],
        "cache_control": {"type": "ephemeral"},
        "inference_geo": "eu",
        "no_such_field": 1,
    }
    assert chat(**ignored) == {"messages": [HELLO]}


@pytest.mark.parametrize(
    ("metadata", "key"),
    [({"user_id": "user_1_session_2"}, "user_1_session_2"), ({}, ""), ({"user_id": 5}, ""), ("no", "")],
)
def test_user_id_is_the_cache_key(metadata: Any, key: str) -> None:
    assert DIALECT.read(body(metadata=metadata)).cache_key == key


def test_texts_of_one_message_are_one_text() -> None:
    assert sent(user(text("a", cache_control={"type": "ephemeral"}), text("b"))) == [
        {"role": "user", "content": "a\n\nb"}
    ]


def test_messages_of_one_role_in_a_row_are_one_turn() -> None:
    found = sent(HELLO, user(text("again")), assistant(text("H")), assistant(text("i")), HELLO)
    assert [each["content"] for each in found] == ["Hello\n\nagain", "Hi", "Hello"]


def test_images_become_parts_in_their_place() -> None:
    picture = {"type": "image", "source": PIXEL}
    linked = {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}
    (found,) = sent(user(text("see"), picture, linked))
    assert found["content"] == [
        text("see"),
        PIXEL_PART,
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
    ]


def test_documents_and_search_results_become_text() -> None:
    document = {"type": "document", "title": "T", "source": {"type": "text", "data": "D"}}
    parts = {"type": "document", "source": {"type": "content", "content": [text("p1"), text("p2")]}}
    hit = {"type": "search_result", "title": "S", "source": "https://x", "content": [text("found")]}
    (found,) = sent(user(document, parts, hit))
    assert found["content"] == "T\n\nD\n\np1\n\np2\n\nS\nhttps://x\n\nfound"


def test_document_of_images_becomes_their_parts() -> None:
    source = {"type": "content", "content": [{"type": "image", "source": PIXEL}]}
    (found,) = sent(user({"type": "document", "source": source}))
    assert found["content"] == [PIXEL_PART]


def test_system_messages_at_the_front_join_the_system_prompt() -> None:
    found = sent({"role": "system", "content": "b"}, HELLO, system=[text("a")])
    assert found == [{"role": "system", "content": "a\n\nb"}, HELLO]


def test_system_message_within_the_conversation_keeps_its_place_as_a_reminder() -> None:
    found = sent(HELLO, {"role": "system", "content": [text("Mind.")]}, assistant(text("Yes.")), HELLO)
    reminder = "Hello\n\n<system-reminder>\nMind.\n</system-reminder>"
    assert [each["role"] for each in found] == ["user", "assistant", "user"]
    assert found[0]["content"] == reminder


def test_billing_line_of_claude_code_is_not_part_of_the_prompt() -> None:
    line = "x-anthropic-billing-header: cc_version=2.1.232; cc_entrypoint=cli; cch=eb6c6;"
    for system in ([text(line), text("You are Claude Code.")], f"{line}\nYou are Claude Code."):
        assert sent(system=system)[0] == {"role": "system", "content": "You are Claude Code."}


def test_thoughts_and_tool_calls_of_the_assistant_are_kept() -> None:
    found = sent(
        HELLO,
        assistant(
            {"type": "thinking", "thinking": "Hm.", "signature": "s"},
            {"type": "redacted_thinking", "data": "xyz"},
            text("Let me look."),
            use("toolu_1", where=ARABIC),
            use("toolu_2", "list"),
        ),
        user(result("toolu_1", "sun"), result("toolu_2", "moon")),
    )
    look = {
        "name": "look",
        "arguments": json.dumps({"where": ARABIC}, ensure_ascii=False, separators=(",", ":")),
    }
    assert found[1] == {
        "role": "assistant",
        "content": "Let me look.",
        "reasoning_content": "Hm.",
        "tool_calls": [
            {"id": "toolu_1", "type": "function", "function": look},
            {"id": "toolu_2", "type": "function", "function": {"name": "list", "arguments": "{}"}},
        ],
    }


def test_tool_calls_without_a_text_have_no_content() -> None:
    assert sent(HELLO, assistant(use("t")), user(result("t", "x")))[1]["content"] is None


def test_results_of_tools_precede_the_rest_of_the_user() -> None:
    found = sent(
        HELLO,
        assistant(use("t1"), use("t2")),
        user(text("And now?"), result("t1", "sun")),
        user(result("t2", [text("a"), text("b")], is_error=True), result("t3"), result("t4", is_error=True)),
    )
    assert found[2:] == [
        {"role": "tool", "tool_call_id": "t1", "content": "sun"},
        {"role": "tool", "tool_call_id": "t2", "content": "Error: a\n\nb"},
        {"role": "tool", "tool_call_id": "t3", "content": ""},
        {"role": "tool", "tool_call_id": "t4", "content": "Error"},
        {"role": "user", "content": "And now?"},
    ]


def test_images_of_tool_results_follow_in_a_message_of_the_user() -> None:
    picture = {"type": "image", "source": PIXEL}
    found = sent(
        HELLO,
        assistant(use("t1"), use("t2")),
        user(result("t1", [text("screen"), picture]), result("t2", "done"), text("Go on.")),
    )
    see = "[An image, which the next message shows.]"
    assert found[2:] == [
        {"role": "tool", "tool_call_id": "t1", "content": f"screen\n\n{see}"},
        {"role": "tool", "tool_call_id": "t2", "content": "done"},
        {"role": "user", "content": [PIXEL_PART, text("Go on.")]},
    ]


def test_tools_found_by_a_search_are_named_in_its_result() -> None:
    reference = {"type": "tool_reference", "tool_name": "look"}
    found = sent(HELLO, assistant(use("t", "ToolSearch")), user(result("t", [reference])))
    assert found[2]["content"] == "The tool look is available."


def test_calls_and_results_of_anthropics_servers_are_left_out() -> None:
    found = sent(
        HELLO,
        assistant(
            text("I search."),
            {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}},
            {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
            {"type": "mcp_tool_use", "id": "m", "name": "n", "server_name": "s", "input": {}},
            {"type": "mcp_tool_result", "tool_use_id": "m", "content": []},
            text(" It rains."),
        ),
        HELLO,
    )
    assert found[1] == {"role": "assistant", "content": "I search. It rains."}


def test_last_message_of_the_assistant_is_continued() -> None:
    found = chat(HELLO, assistant(text("{")))
    assert (found["continue_final_message"], found["add_generation_prompt"]) == (True, False)
    for messages in ([HELLO], [HELLO, assistant(use("t"))]):
        assert "continue_final_message" not in chat(*messages)


def test_tools_become_functions() -> None:
    strict = {"type": "custom", "name": "b", "input_schema": {}, "strict": True, "defer_loading": True}
    assert chat(tools=[TOOL, strict])["tools"] == [
        {"type": "function", "function": FUNCTION},
        {"type": "function", "function": {"name": "b", "parameters": {}, "strict": True}},
    ]


@pytest.mark.parametrize(
    "kind",
    [
        *("web_search_20250305", "web_fetch_20250910", "code_execution_20250825", "mcp_toolset"),
        *("tool_search_tool_regex_20251119", "advisor_20260301"),
    ],
)
def test_tools_of_anthropics_servers_are_left_out(kind: str) -> None:
    theirs = {"type": kind, "name": "theirs"}
    assert chat(tools=[theirs, TOOL])["tools"] == [{"type": "function", "function": FUNCTION}]
    demanded = {"type": "tool", "name": "theirs"}
    assert "tool_choice" not in chat(tools=[theirs, TOOL], tool_choice=demanded)
    assert chat(tools=[theirs], tool_choice=demanded) == {"messages": [HELLO]}


@pytest.mark.parametrize(
    ("choice", "found"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        (
            {"type": "tool", "name": "look"},
            {"tool_choice": {"type": "function", "function": {"name": "look"}}},
        ),
        (
            {"type": "auto", "disable_parallel_tool_use": True},
            {"tool_choice": "auto", "parallel_tool_calls": False},
        ),
        (None, {}),
    ],
)
def test_choice_of_tools_is_translated(choice: Values | None, found: Values) -> None:
    asked = chat(tools=[TOOL], tool_choice=choice)
    assert {name: asked[name] for name in ("tool_choice", "parallel_tool_calls") if name in asked} == found


@pytest.mark.parametrize(
    ("thinking", "found"),
    [
        ({"type": "enabled", "budget_tokens": 2048}, {"enable_thinking": True}),
        ({"type": "disabled"}, {"enable_thinking": False}),
        ({"type": "adaptive"}, None),
        (None, None),
    ],
)
def test_thinking_is_asked_for_only_if_the_client_decides(thinking: Any, found: Values | None) -> None:
    assert chat(thinking=thinking).get("chat_template_kwargs") == found


@pytest.mark.parametrize(("effort", "found"), [("low", "low"), ("max", "high"), ("odd", None), (None, None)])
def test_effort_is_passed_on(effort: str | None, found: str | None) -> None:
    assert chat(output_config={"effort": effort}).get("reasoning_effort") == found


@pytest.mark.parametrize("name", ["output_format", "output_config"])
def test_schema_of_the_answer_is_passed_on(name: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"type": "json_schema", "schema": schema}
    found = chat(**{name: form if name == "output_format" else {"format": form}})
    assert found["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema},
    }


PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": ""}}
FILE = {"type": "image", "source": {"type": "file", "file_id": "f"}}


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"model": None}, "model"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ({"messages": ["x"]}, "messages[0].role"),
        ({"messages": [HELLO, {"role": "tool", "content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [user({"text": "x"})]}, "messages[0].content[0]"),
        ({"messages": [user(text("x"), {"type": "text"})]}, "messages[0].content[1].text"),
        ({"messages": [HELLO, HELLO, user(text("x"), {"type": "odd"})]}, "messages[2].content[1].type"),
        ({"messages": [user({"type": "container_upload"})]}, "messages[0].content[0].type"),
        ({"messages": [user(use("t"))]}, "messages[0].content[0].type"),
        ({"messages": [HELLO, assistant(FILE)]}, "messages[1].content[0].type"),
        ({"messages": [user(FILE)]}, "messages[0].content[0].source.type"),
        ({"messages": [user({"type": "image"})]}, "messages[0].content[0].source.type"),
        ({"messages": [user({"type": "image", "source": 1})]}, "messages[0].content[0].source"),
        ({"messages": [user(PDF)]}, "messages[0].content[0].source.type"),
        ({"messages": [user(result("t", [PDF]))]}, "messages[0].content[0].content[0].source.type"),
        ({"messages": [user(result("t", [result("t")]))]}, "messages[0].content[0].content[0].type"),
        ({"messages": [user({"type": "tool_result"})]}, "messages[0].content[0].tool_use_id"),
        ({"messages": [assistant({**use("t"), "input": []})]}, "messages[0].content[0].input"),
        ({"messages": [assistant({"type": "tool_use", "name": "x"})]}, "messages[0].content[0].id"),
        ({"system": 5}, "system"),
        ({"system": [text("a"), FILE]}, "system[1].type"),
        ({"tools": {"a": 1}}, "tools"),
        ({"tools": ["x"]}, "tools[0]"),
        ({"tools": [TOOL, {"type": "bash_20250124", "name": "bash"}]}, "tools[1].type"),
        ({"tools": [{"type": "text_editor_20250728", "name": "e"}]}, "tools[0].type"),
        ({"tools": [{"type": "computer_20250124", "name": "c"}]}, "tools[0].type"),
        ({"tools": [{"type": ["custom"], "name": "c"}]}, "tools[0].type"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
        ({"tools": [{"name": "x"}]}, "tools[0].input_schema"),
        ({"tools": [TOOL], "tool_choice": "auto"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "odd"}}, "tool_choice.name"),
        ({"thinking": "on"}, "thinking"),
        ({"output_config": {"format": {"type": "json"}}}, "output_config.format"),
        ({"output_format": {"type": "json_schema"}}, "output_format"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_name(given: Values, field: str) -> None:
    with pytest.raises(ApiError) as caught:
        DIALECT.read({**body(), **given})
    assert (caught.value.code, caught.value.facts["field"]) == ("INVALID_FIELD", field)
    assert caught.value.text.startswith(f"{field} ")


names = st.sampled_from(
    [
        *(
            "type",
            "role",
            "content",
            "text",
            "source",
            "data",
            "url",
            "title",
            "tool_use_id",
            "is_error",
            "id",
        ),
        *("name", "input", "input_schema", "thinking", "format", "schema", "effort", "eager_input_streaming"),
    ]
)
words = st.sampled_from(
    [
        *("user", "assistant", "system", "text", "image", "document", "content", "base64", "search_result"),
        *("tool_use", "tool_result", "tool_reference", "thinking", "tool", "any", "custom", "web_search_1"),
    ]
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), words),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=5)),
    max_leaves=25,
)


@hypothesis.given(
    st.dictionaries(
        st.sampled_from(
            [
                *("system", "messages", "tools", "tool_choice", "thinking", "output_config", "output_format"),
                *("metadata", "stop_sequences", "temperature", "stream", "max_tokens", "model"),
            ]
        ),
        values,
    )
)
def test_whatever_is_sent_is_read_or_refused_by_a_name(given: Values) -> None:
    turn = {"role": "user", "content": given.pop("messages", "x")}
    refusal: ApiError | None = None
    try:
        DIALECT.read({**body(turn, turn, {**turn, "role": "assistant"}), **given})
    except ApiError as error:
        refusal = error
    assert refusal is None or (refusal.code == "INVALID_FIELD" and refusal.facts["field"])


def test_request_of_claude_code_becomes_a_chat() -> None:
    cached = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    session = json.dumps({"device_id": "d", "account_uuid": "", "session_id": "s"})
    tools = [{**TOOL, "name": f"Tool{place}", "eager_input_streaming": False} for place in range(20)]
    asked = DIALECT.read(
        {
            "model": "qwen3",
            "max_tokens": 32000,
            "stream": True,
            "temperature": 1,
            "system": [
                text("x-anthropic-billing-header: cc_version=2.1.232; cc_entrypoint=cli; cch=eb6c6;"),
                text("You are Claude Code.", **cached),
                text("\nYou are an interactive agent.", **cached),
            ],
            "messages": [
                user(text("<system-reminder>\nBe kind.\n</system-reminder>"), text("List it.", **cached)),
                {"role": "system", "content": "Available agent types: one."},
                assistant(
                    {"type": "thinking", "thinking": "A list.", "signature": "job-6"},
                    text("I list."),
                    use("call_1", "Tool1", path="/a"),
                    use("call_2", "Tool2"),
                ),
                user(
                    result("call_1", "a\nb", **cached),
                    result("call_2", "<tool_use_error>No.</tool_use_error>", is_error=True),
                    text("Go on.", **cached),
                ),
            ],
            "tools": [*tools, {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}],
            "metadata": {"user_id": session},
            "thinking": {"type": "adaptive"},
            "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
            "output_config": {"effort": "medium"},
        }
    )
    assert (asked.model, asked.is_stream, asked.max_tokens) == ("qwen3", True, 32000)
    assert asked.cache_key == session
    assert sorted(asked.chat) == ["messages", "reasoning_effort", "temperature", "tools"]
    assert [tool["function"]["name"] for tool in asked.chat["tools"]] == [tool["name"] for tool in tools]
    system, first, answered, *rest = asked.chat["messages"]
    assert system == {
        "role": "system",
        "content": "You are Claude Code.\n\n\nYou are an interactive agent.",
    }
    assert first["content"].endswith(
        "List it.\n\n<system-reminder>\nAvailable agent types: one.\n</system-reminder>"
    )
    assert (answered["content"], answered["reasoning_content"]) == ("I list.", "A list.")
    assert [each["id"] for each in answered["tool_calls"]] == ["call_1", "call_2"]
    assert rest == [
        {"role": "tool", "tool_call_id": "call_1", "content": "a\nb"},
        {
            "role": "tool",
            "tool_call_id": "call_2",
            "content": "Error: <tool_use_error>No.</tool_use_error>",
        },
        {"role": "user", "content": "Go on."},
    ]


def test_counting_needs_no_most_tokens() -> None:
    asked = counted({"model": "m", "messages": [HELLO], "system": "s", "tools": [TOOL], "stream": True})
    assert (asked.model, asked.is_stream, asked.max_tokens) == ("m", False, None)
    assert asked.chat == chat(system="s", tools=[TOOL])
    assert json.loads(count_body(12)) == {"input_tokens": 12}


def test_conversation_does_not_change() -> None:
    asked = DIALECT.read(body())
    assert isinstance(asked, Conversation)
    with pytest.raises(AttributeError):
        asked.model = "n"  # type: ignore[misc]
