"""Answers and errors as Anthropic's Messages API writes them: whole, and as events."""

from __future__ import annotations

import copy
import json
from typing import Any

import hypothesis
import pytest
from dcp.v1 import jobs_pb2
from hypothesis import strategies as st

from gateway.dialects import Head, chunks
from gateway.errors import STATUS_BY_REASON, ApiError
from tests.gateway.test_anthropic_requests import ARABIC, DIALECT, TOOL, body, text, use

Values = dict[str, Any]

HEAD = Head("job-7", 1_700_000_000)
JOB = jobs_pb2.Job(usage=jobs_pb2.Usage(prompt_tokens=50, completion_tokens=7, cached_tokens=20))
USAGE = {
    "input_tokens": 30,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 20,
    "output_tokens": 7,
}


def chunk(reason: str | None = None, index: int = 0, **delta: Any) -> Values:
    """A chunk as the model server's line gives it, through the real reader of such lines."""
    choice = {"index": index, "delta": delta, "finish_reason": reason}
    found = chunks.read(json.dumps({"choices": [choice]}))
    assert found is not None
    return found


def call(index: int, arguments: str = "", call_id: str | None = None, name: str | None = None) -> Values:
    """A part of a tool call."""
    return {"index": index, "id": call_id, "function": {"name": name, "arguments": arguments}}


def events(stream: bytes) -> list[Values]:
    """The events of a stream; each has the name that its data says."""
    found = []
    for block in stream.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        values = json.loads(data.removeprefix("data: "))
        assert name == f"event: {values['type']}"
        found.append(values)
    return found


def stream(*given: Values, **more: Any) -> bytes:
    answer = DIALECT.read(body(**more)).answer(HEAD)
    return b"".join([answer.begin(), *map(answer.more, given), answer.end(JOB)])


def message(*given: Values, **more: Any) -> Values:
    gathered = chunks.Gathered()
    for each in given:
        gathered.add(each)
    found: Values = json.loads(DIALECT.read(body(**more)).answer(HEAD).whole(gathered.choices, JOB))
    return found


def accumulated(given: list[Values]) -> Values:
    """The message that Anthropic's Python client puts together from events, which must be in their order."""
    first, ping, *given, last, end = copy.deepcopy(given)
    assert kinds([first, ping, last, end]) == ["message_start", "ping", "message_delta", "message_stop"]
    content: list[Values] = first["message"]["content"]
    opened: Values | None = None
    written = ""
    for event in given:
        match event["type"], opened:
            case "content_block_start", None:
                assert event["index"] == len(content)
                opened, written = event["content_block"], ""
                content.append(opened)
            case "content_block_delta", dict():
                assert event["index"] == len(content) - 1
                match event["delta"]["type"], opened["type"]:
                    case ("text_delta", "text") | ("thinking_delta", "thinking"):
                        opened[opened["type"]] += event["delta"][opened["type"]]
                    case "signature_delta", "thinking":
                        opened["signature"] = event["delta"]["signature"]
                    case "input_json_delta", "tool_use":
                        written += event["delta"]["partial_json"]
                    case other:
                        pytest.fail(str(other))
            case "content_block_stop", dict():
                assert event["index"] == len(content) - 1
                if opened["type"] == "tool_use":
                    opened["input"] = json.loads(written)
                opened = None
            case "ping", _:
                pass
            case other, _:
                pytest.fail(str(other))
    assert opened is None
    usage = first["message"]["usage"] | last["usage"]
    return {**first["message"], **last["delta"], "usage": usage}


def kinds(given: list[Values]) -> list[str]:
    return [event["type"] for event in given]


def test_text_is_streamed_in_one_block() -> None:
    found = events(stream(chunk(content="Hel"), chunk(content="lo"), chunk("stop")))
    head: Values = {
        "id": "msg_job-7",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": dict.fromkeys(USAGE, 0),
    }
    assert found == [
        {"type": "message_start", "message": head},
        {"type": "ping"},
        {"type": "content_block_start", "index": 0, "content_block": text("")},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hel"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "lo"}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": USAGE,
        },
        {"type": "message_stop"},
    ]


def test_each_chunk_is_told_at_once() -> None:
    answer = DIALECT.read(body()).answer(HEAD)
    answer.begin()
    for piece in ("a", ARABIC):
        assert events(answer.more(chunk(content=piece)))[-1]["delta"]["text"] == piece


def test_whole_message_has_content_reason_and_counts() -> None:
    assert message(chunk(content="Hi"), chunk("stop")) == {
        "id": "msg_job-7",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [text("Hi")],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": USAGE,
    }


@pytest.mark.parametrize("given", [[], [chunk("stop")], [chunk("stop", content="")]])
def test_empty_answer_has_no_block(given: list[Values]) -> None:
    assert message(*given)["content"] == []
    assert kinds(events(stream(*given))) == ["message_start", "ping", "message_delta", "message_stop"]


def test_thoughts_are_a_signed_block_before_the_text() -> None:
    given = (chunk(reasoning_content="H"), chunk(reasoning="m"), chunk(content="Yes"), chunk("stop"))
    thought = {"type": "thinking", "thinking": "Hm", "signature": "job-7"}
    assert message(*given)["content"] == [thought, text("Yes")]
    found = events(stream(*given))
    assert accumulated(found)["content"] == [thought, text("Yes")]
    assert found[2]["content_block"] == {"type": "thinking", "thinking": "", "signature": ""}
    assert found[5]["delta"] == {"type": "signature_delta", "signature": "job-7"}
    assert kinds(found[6:8]) == ["content_block_stop", "content_block_start"]


def test_thoughts_are_not_shown_to_who_disabled_them() -> None:
    given = (chunk(reasoning_content="Hm"), chunk(content="Yes"), chunk("stop"))
    more = {"thinking": {"type": "disabled"}}
    assert message(*given, **more)["content"] == [text("Yes")]
    found = events(stream(*given, **more))
    assert accumulated(found)["content"] == [text("Yes")]
    assert kinds(found[:3]) == ["message_start", "ping", "ping"]


def test_only_the_first_choice_counts() -> None:
    given = (chunk(content="a"), chunk("length", index=1, content="b"), chunk("stop"))
    assert message(*given)["content"] == accumulated(events(stream(*given)))["content"] == [text("a")]
    assert message(chunk("stop", index=1, content="b"))["content"] == []


def test_refusal_of_the_model_is_text() -> None:
    given = (chunk(refusal="I will"), chunk("content_filter", refusal=" not."))
    for found in (message(*given), accumulated(events(stream(*given)))):
        assert (found["content"], found["stop_reason"]) == ([text("I will not.")], "refusal")


LOOK = {"type": "tool_use", "id": "call_a", "name": "look", "input": {"where": "{}"}}


@pytest.mark.parametrize(
    ("reason", "given", "found"),
    [
        ("stop", {"content": "x"}, "end_turn"),
        ("eos_token", {"content": "x"}, "end_turn"),
        ("length", {"content": "x"}, "max_tokens"),
        ("content_filter", {"content": "x"}, "refusal"),
        (None, {"content": "x"}, "max_tokens"),
        ("tool_calls", {"tool_calls": [call(0, "{}", "a", "f")]}, "tool_use"),
        ("function_call", {"function_call": {"name": "f", "arguments": "{}"}}, "tool_use"),
        ("stop", {"tool_calls": [call(0, "{}", "a", "f")]}, "tool_use"),
        ("tool_calls", {"content": "x"}, "end_turn"),
        ("length", {"tool_calls": [call(0, "{}", "a", "f")]}, "max_tokens"),
    ],
)
def test_reason_says_what_the_client_should_do(reason: str | None, given: Values, found: str) -> None:
    for told in (message(chunk(reason, **given)), accumulated(events(stream(chunk(reason, **given))))):
        assert told["stop_reason"] == found


def test_tool_call_opens_at_once_and_has_its_input_when_it_is_complete() -> None:
    answer = DIALECT.read(body()).answer(HEAD)
    opened = events(answer.more(chunk(tool_calls=[call(0, "", "call_a", "look")])))
    empty = {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "input_json_delta", "partial_json": ""},
    }
    assert opened == [
        {"type": "content_block_start", "index": 0, "content_block": {**LOOK, "input": {}}},
        empty,
    ]
    assert events(answer.more(chunk(tool_calls=[call(0, '{"where": "{}')]))) == [empty]
    closed = events(answer.more(chunk(tool_calls=[call(0, '"}')])))
    assert closed[0]["delta"]["partial_json"] == '{"where": "{}"}'
    assert kinds(closed) == ["content_block_delta", "content_block_stop"]


def test_eager_tools_have_their_input_as_it_is_written() -> None:
    eager = {**TOOL, "eager_input_streaming": True}
    given = [
        chunk(tool_calls=[call(0, '{"whe', "call_a", "look")]),
        chunk(tool_calls=[call(0, 're": "{}"')]),
        chunk(tool_calls=[call(0, "}")]),
        chunk("tool_calls"),
    ]
    found = events(stream(*given, tools=[eager]))
    pieces = [each["delta"]["partial_json"] for each in found if each["type"] == "content_block_delta"]
    assert pieces == ['{"whe', 're": "{}"', "}"]
    assert accumulated(found)["content"] == [LOOK]


def test_interleaved_tool_calls_become_blocks_one_after_the_other() -> None:
    given = [
        chunk(content="I look."),
        chunk(tool_calls=[call(0, '{"a": ', "call_a", "look")]),
        chunk(tool_calls=[call(1, '{"b"', "call_b", "list")]),
        chunk(tool_calls=[call(0, '"}{'), call(1, ": [1,"), call(2, "{}", "call_c", "stop")]),
        chunk(tool_calls=[call(1, " 2]}")]),
        chunk(content=" Done."),
        chunk(tool_calls=[call(0, '"}')]),
        chunk("tool_calls"),
    ]
    found = events(stream(*given))
    assert accumulated(found)["content"] == [
        text("I look."),
        use("call_a", "look", a="}{"),
        use("call_b", "list", b=[1, 2]),
        use("call_c", "stop"),
        text(" Done."),
    ]
    assert [each["index"] for each in found if each["type"] == "content_block_stop"] == [0, 1, 2, 3, 4]
    assert message(*given)["content"] == [
        text("I look. Done."),
        *accumulated(found)["content"][1:4],
    ]


def test_sequential_tool_calls_close_before_the_answer_ends() -> None:
    answer = DIALECT.read(body()).answer(HEAD)
    answer.more(chunk(tool_calls=[call(0, "{}", "a", "f")]))
    found = events(answer.more(chunk(tool_calls=[call(1, '{"x"', "b", "g")])))
    assert found[0]["content_block"]["name"] == "g"


def test_held_chunks_are_signs_of_life() -> None:
    answer = DIALECT.read(body()).answer(HEAD)
    assert kinds(events(answer.more(chunk(tool_calls=[call(0, "{", name="f")])))) == ["ping"]
    assert events(answer.ping()) == [{"type": "ping"}]
    assert answer.more(chunk("stop")) == b""


def test_tool_call_without_an_id_gets_one_of_its_place() -> None:
    given = [chunk(tool_calls=[call(0, "{}", name="f"), call(1, "{}", name="g")]), chunk("tool_calls")]
    ids = ["toolu_job-7_0", "toolu_job-7_1"]
    for found in (message(*given), accumulated(events(stream(*given)))):
        assert [each["id"] for each in found["content"]] == ids


def test_late_name_and_id_are_waited_for() -> None:
    given = [
        chunk(tool_calls=[call(0, '{"a": 1}')]),
        chunk(tool_calls=[call(0, "", "call_a", "f")]),
        chunk("tool_calls"),
    ]
    assert accumulated(events(stream(*given)))["content"] == [use("call_a", "f", a=1)]


def test_call_of_the_older_form_is_a_tool_call() -> None:
    given = [
        chunk(function_call={"name": "f", "arguments": '{"a"'}),
        chunk(function_call={"arguments": ": 1}"}),
        chunk("function_call"),
    ]
    for found in (message(*given), accumulated(events(stream(*given)))):
        assert found["content"] == [use("toolu_job-7_0", "f", a=1)]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ("", {}),
        (" \n", {}),
        ("{}", {}),
        (' {"a": 1} ', {"a": 1}),
        ('{"a": "\\"}"}', {"a": '"}'}),
        ('{"a": "\\\\"}', {"a": "\\"}),
        ('{"a": 1}{"a": 1}', {"a": 1}),
        ('{"a": 1', {"INVALID_JSON": '{"a": 1'}),
        ("{a: 1}", {"INVALID_JSON": "{a: 1}"}),
        ("[{}]", {"INVALID_JSON": "[{}]"}),
        ('"{}"', {"INVALID_JSON": '"{}"'}),
        ("null", {"INVALID_JSON": "null"}),
        ("}{}}", {"INVALID_JSON": "}{}}"}),
        (f'{{"a": "{ARABIC}', {"INVALID_JSON": f'{{"a": "{ARABIC}'}),
    ],
)
def test_input_is_always_an_object_and_loses_nothing(arguments: str, found: Values) -> None:
    first = chunk(tool_calls=[call(0, "", "a", "f")])
    pieces = [chunk(tool_calls=[call(0, letter)]) for letter in arguments]
    for given in ([first, chunk(tool_calls=[call(0, arguments)])], [first, *pieces]):
        assert message(*given)["content"] == [use("a", "f", **found)]
        assert accumulated(events(stream(*given)))["content"] == [use("a", "f", **found)]


def test_call_without_name_and_input_is_none() -> None:
    given = [chunk(content="x"), chunk("stop", tool_calls=[call(0)])]
    for found in (message(*given), accumulated(events(stream(*given)))):
        assert (found["content"], found["stop_reason"]) == ([text("x")], "end_turn")


def test_counts_are_never_negative() -> None:
    usage = jobs_pb2.Usage(prompt_tokens=3, cached_tokens=5)
    found = json.loads(DIALECT.read(body()).answer(HEAD).whole([], jobs_pb2.Job(usage=usage)))["usage"]
    assert (found["input_tokens"], found["cache_read_input_tokens"]) == (0, 3)


inputs = st.one_of(
    st.dictionaries(st.text(max_size=3), st.text(alphabet='{}"\\,a\n', max_size=5), max_size=3).map(
        json.dumps
    ),
    st.text(alphabet='{}[]" \\:,a1', max_size=8),
)
texts = st.text(min_size=1, max_size=4)


@st.composite
def answers(draw: st.DrawFn) -> list[Values]:
    """The chunks of an answer: texts, thoughts and tool calls, cut and mixed at will."""
    deltas: list[Values] = []
    waiting = []
    for index in draw(st.permutations(range(draw(st.integers(0, 4))))):
        written, pieces = draw(inputs), []
        while written:
            size = draw(st.integers(1, len(written)))
            pieces.append(call(index, written[:size]))
            written = written[size:]
        call_id = draw(st.sampled_from([f"call_{index}", None]))
        waiting.append([call(index, "", call_id, f"tool{index}"), *pieces])
    for _ in range(draw(st.integers(0, 6))):
        name = draw(st.sampled_from(["content", "reasoning_content", "refusal"]))
        waiting.append([{name: draw(texts)}])
    while waiting:
        part = draw(st.sampled_from(waiting))
        each = part.pop(0)
        deltas.append({"tool_calls": [each]} if "function" in each else each)
        waiting = [left for left in waiting if left]
    reason = draw(st.sampled_from(["stop", "length", "tool_calls", None]))
    return [*(chunk(**delta) for delta in deltas), chunk(reason)]


def gist(found: Values) -> Values:
    """What a message says, whatever its blocks' order."""
    blocks = found["content"]
    calls = {each["name"]: each for each in blocks if each["type"] == "tool_use"}
    for each in calls.values():
        if each["id"].startswith("toolu_"):
            each["id"] = "made"
    return {
        "thinking": sorted("".join(each.get("thinking", "") for each in blocks)),
        "text": sorted("".join(each.get("text", "") for each in blocks)),
        "calls": calls,
        "reason": found["stop_reason"],
        "usage": found["usage"],
    }


@hypothesis.given(answers())
def test_stream_says_what_the_whole_message_says(given: list[Values]) -> None:
    found = accumulated(events(stream(*given)))
    assert gist(found) == gist(message(*given))
    assert all(each.get("text") != "" and each.get("thinking") != "" for each in found["content"])


@hypothesis.given(answers())
def test_text_and_thoughts_keep_their_order(given: list[Values]) -> None:
    deltas = [choice["delta"] for each in given for choice in each["choices"]]
    blocks = accumulated(events(stream(*given)))["content"]
    for kind, names in (("text", ("content", "refusal")), ("thinking", ("reasoning_content",))):
        written = "".join(delta.get(name, "") for delta in deltas for name in names)
        assert "".join(each.get(kind, "") for each in blocks) == written


def test_answer_can_be_sent_back_as_it_is() -> None:
    given = [
        chunk(reasoning_content="Hm."),
        chunk(content="I look."),
        chunk(tool_calls=[call(0, '{"a":1}', "call_a", "look"), call(1, '{"b":', "call_b", "look")]),
        chunk("length"),
    ]
    content = message(*given)["content"]
    back = DIALECT.read(body({"role": "user", "content": "x"}, {"role": "assistant", "content": content}))
    written = '{"INVALID_JSON":"{\\"b\\":"}'
    assert back.chat["messages"][1] == {
        "role": "assistant",
        "content": "I look.",
        "reasoning_content": "Hm.",
        "tool_calls": [
            {"id": "call_a", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}},
            {"id": "call_b", "type": "function", "function": {"name": "look", "arguments": written}},
        ],
    }


# Errors


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (ApiError("INVALID_FIELD"), 400, "invalid_request_error"),
        (ApiError("BAD_PARAMS", "x", http_status=400), 400, "invalid_request_error"),
        (ApiError("INVALID_CREDENTIAL"), 401, "authentication_error"),
        (ApiError("INSUFFICIENT_BALANCE", "x"), 402, "billing_error"),
        (ApiError("BUDGET_REACHED", "x"), 402, "billing_error"),
        (ApiError("PERMISSION_DENIED", http_status=403), 403, "permission_error"),
        (ApiError("MODEL_NOT_SERVED", "x"), 404, "not_found_error"),
        (ApiError("MODEL_NOT_FOUND", "x"), 404, "not_found_error"),
        (ApiError("IDEMPOTENCY_CLASH", "x"), 409, "invalid_request_error"),
        (ApiError("JOB_CANCELLED", "x"), 410, "invalid_request_error"),
        (ApiError("BODY_TOO_LARGE", "x"), 413, "request_too_large"),
        (ApiError("RATE_LIMITED"), 429, "rate_limit_error"),
        (ApiError("INTERNAL"), 500, "api_error"),
        (ApiError("UNAVAILABLE"), 503, "overloaded_error"),
        (ApiError("TIMEOUT"), 504, "timeout_error"),
        (ApiError("PROVIDER_UNAVAILABLE", "x"), 529, "overloaded_error"),
    ],
)
def test_error_has_the_status_and_type_of_the_api(error: ApiError, status: int, kind: str) -> None:
    assert DIALECT.status_of(error) == status
    found = json.loads(DIALECT.error_body(error, "req-1"))
    text = found["error"]["message"]
    assert found == {"type": "error", "error": {"type": kind, "message": text}, "request_id": "req-1"}
    answer = DIALECT.read(
        {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}
    ).answer(Head("req-1", 0))
    event = b"event: error\ndata: %s\n\n" % json.dumps(found, separators=(",", ":")).encode()
    assert (answer.broken(error), answer.says_broken) == (event, False)


@pytest.mark.parametrize("code", sorted(STATUS_BY_REASON))
def test_every_error_of_the_marketplace_has_a_type(code: str) -> None:
    error = ApiError(code, "x")
    kind = json.loads(DIALECT.error_body(error, "r"))["error"]["type"]
    assert (kind in ("api_error", "overloaded_error", "timeout_error")) == (DIALECT.status_of(error) >= 500)


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("Shorten params.messages.", "prompt is too long: Shorten messages."),
        ("Prompt is too long.", "Prompt is too long."),
    ],
)
def test_too_long_prompt_is_named_as_claude_code_reads_it(written: str, found: str) -> None:
    error = ApiError("PROMPT_TOO_LONG", written, http_status=400)
    assert json.loads(DIALECT.error_body(error, "r"))["error"] == {
        "type": "invalid_request_error",
        "message": found,
    }


def test_fault_of_ours_has_what_to_look_it_up_by() -> None:
    assert "req-9" in json.loads(DIALECT.error_body(ApiError("INTERNAL"), "req-9"))["error"]["message"]
