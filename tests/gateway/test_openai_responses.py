"""Answers and errors of OpenAI's Responses API: whole, as events, and as OpenAI's client reads both."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import hypothesis
import openai
import pytest
from dcp.v1 import jobs_pb2
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from gateway.dialects import Head, chunks
from gateway.errors import ApiError
from tests.gateway.test_responses_requests import AGENTS, APPLY_PATCH, ARABIC, CODEX, DIALECT, PATCH, function

Values = dict[str, Any]

HEAD = Head("job-7", 1_700_000_000)
JOB = jobs_pb2.Job(usage=jobs_pb2.Usage(prompt_tokens=50, completion_tokens=7, cached_tokens=20))
USAGE = {
    "input_tokens": 50,
    "input_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 0},
    "output_tokens": 7,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 57,
}
BODY = {"model": "m", "input": "Hello", "tools": [function("exec"), APPLY_PATCH, AGENTS]}
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
LIKELY = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [{"token": "a", "logprob": -0.5}]}
SHOWN = {**LIKELY, "top_logprobs": [{"token": "a", "logprob": -0.5, "bytes": [97]}]}


def chunk(reason: str | None = None, index: int = 0, logprobs: Any = None, **delta: Any) -> Values:
    """A chunk as the model server's line gives it, through the real reader of such lines."""
    choice = {"index": index, "delta": delta, "finish_reason": reason, "logprobs": logprobs}
    found = chunks.read(json.dumps({"choices": [choice]}))
    assert found is not None
    return found


def call(index: int, arguments: str = "", call_id: str | None = None, name: str | None = None) -> Values:
    """A chunk with a part of a tool call."""
    return chunk(
        tool_calls=[{"index": index, "id": call_id, "function": {"name": name, "arguments": arguments}}]
    )


STOP, LENGTH = chunk("stop"), chunk("length")
STEP = [
    chunk(role="assistant", content=""),
    chunk(reasoning_content="I should "),
    chunk(reasoning="look."),
    chunk(content="\n\n"),
    chunk(content="Let me "),
    chunk(content=f"look. {ARABIC}"),
    call(0, "", "c-1", "exec"),
    call(0, '{"cmd":'),
    call(0, '"ls"}'),
    call(1, '{"input": "*** Be', "c-2", "apply_patch"),
    call(1, 'gin\\n\\"Patch\\"'),
    call(1, '"}'),
    call(2, "{}", None, "agents_v1__spawn"),
    chunk("tool_calls"),
]


def streamed(*given: Values, **more: Any) -> bytes:
    answer = DIALECT.read({**BODY, **more}).answer(HEAD)
    return b"".join([answer.begin(), *map(answer.more, given), answer.ping(), answer.end(JOB)])


def whole(*given: Values, **more: Any) -> Values:
    gathered = chunks.Gathered()
    for each in given:
        gathered.add(each)
    found: Values = json.loads(DIALECT.read({**BODY, **more}).answer(HEAD).whole(gathered.choices, JOB))
    return found


def events(stream: bytes) -> list[Values]:
    """The events of a stream without its comments. Each is one that OpenAI's types know."""
    found = []
    for block in stream.decode().removesuffix("\n\n").split("\n\n"):
        if block == ":":
            continue
        name, data = block.split("\n")
        values = json.loads(data.removeprefix("data: "))
        assert name == f"event: {values['type']}"
        assert EVENT.validate_python(values).type == values["type"]
        found.append(values)
    return found


def kinds(given: list[Values]) -> list[str]:
    return [each["type"].removeprefix("response.") for each in given]


@contextmanager
def client(content: bytes) -> Iterator[openai.OpenAI]:
    """OpenAI's client at a server that gives this answer."""
    kind = "text/event-stream" if content.startswith(b"event:") else "application/json"
    response = httpx2.Response(200, headers={"content-type": kind}, content=content)
    with (
        httpx2.Client(transport=httpx2.MockTransport(lambda _: response)) as connections,
        openai.OpenAI(
            api_key="k", base_url="http://gateway/v1", http_client=connections, max_retries=0
        ) as found,
    ):
        yield found


def accumulated(stream: bytes) -> Values:
    """The response that OpenAI's client puts together, without what it adds."""
    with client(stream) as there, there.responses.stream(model="m", input="Hello") as read:
        response: Values = read.get_final_response().to_dict()
    items: Any = response["output"]
    for each in [*items, *(part for item in items for part in item.get("content") or ())]:
        for added in ("parsed", "parsed_arguments"):
            assert each.pop(added, None) is None
    return response


# Streams


def test_events_of_a_step_of_an_agent_are_in_order() -> None:
    found = events(streamed(*STEP))
    assert kinds(found) == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta"),
        *("reasoning_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.delta"),
        *("output_item.added", "custom_tool_call_input.delta", "custom_tool_call_input.delta"),
        *("output_item.added", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done"),
        *("custom_tool_call_input.done", "output_item.done"),
        *("function_call_arguments.done", "output_item.done"),
        "completed",
    ]
    assert [each["sequence_number"] for each in found] == list(range(len(found)))
    assert found[0]["response"]["output"] == []
    assert (found[0]["response"]["status"], found[0]["response"]["usage"]) == ("in_progress", None)


def test_items_of_a_step_of_an_agent() -> None:
    response = events(streamed(*STEP))[-1]["response"]
    assert response["output"] == [
        {
            "id": "rs_job-7",
            "type": "reasoning",
            "status": "completed",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "I should look."}],
        },
        {
            "id": "msg_job-7",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [
                {
                    "type": "output_text",
                    "text": f"\n\nLet me look. {ARABIC}",
                    "annotations": [],
                    "logprobs": [],
                }
            ],
        },
        {
            "id": "fc_job-7_0",
            "type": "function_call",
            "status": "completed",
            "call_id": "c-1",
            "name": "exec",
            "arguments": '{"cmd":"ls"}',
        },
        {
            "id": "ctc_job-7_1",
            "type": "custom_tool_call",
            "status": "completed",
            "call_id": "c-2",
            "name": "apply_patch",
            "input": '*** Begin\n"Patch"',
        },
        {
            "id": "fc_job-7_2",
            "type": "function_call",
            "status": "completed",
            "call_id": "call_job-7_2",
            "name": "spawn",
            "namespace": "agents_v1",
            "arguments": "{}",
        },
    ]
    assert (response["id"], response["status"], response["usage"]) == ("resp_job-7", "completed", USAGE)
    assert response == whole(*STEP)


def test_openais_client_puts_together_the_whole_response() -> None:
    expected = whole(*STEP)
    assert accumulated(streamed(*STEP)) == expected
    with client(json.dumps(expected).encode()) as there:
        response = there.responses.create(model="m", input="Hello")
    assert response.to_dict() == expected
    assert response.output_text == f"\n\nLet me look. {ARABIC}"


def test_openais_client_reads_each_event() -> None:
    stream = streamed(*STEP)
    with client(stream) as there:
        found = [each.to_dict() for each in there.responses.create(model="m", input="Hello", stream=True)]
    assert found == events(stream)


def test_thoughts_are_a_summary_where_the_client_asks_for_one() -> None:
    found = events(streamed(*STEP, reasoning={"summary": "auto"}))
    assert kinds(found)[2:9] == [
        *("output_item.added", "reasoning_summary_part.added"),
        *("reasoning_summary_text.delta", "reasoning_summary_text.delta"),
        *("reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done"),
    ]
    response = found[-1]["response"]
    assert response["output"][0] == {
        "id": "rs_job-7",
        "type": "reasoning",
        "status": "completed",
        "summary": [{"type": "summary_text", "text": "I should look."}],
        "content": [],
    }
    assert response == whole(*STEP, reasoning={"summary": "auto"})


def test_answer_of_codex_comes_back_as_the_same_conversation() -> None:
    answer = DIALECT.read(CODEX).answer(HEAD)
    given = [*STEP[:-2], call(2, '{"input": "go()"}', "c-3", "agents_v1__script"), STEP[-1]]
    done = events(b"".join([answer.begin(), *map(answer.more, given), answer.end(JOB)]))
    items = [each["item"] for each in done if each["type"] == "response.output_item.done"]
    asked = DIALECT.read({**CODEX, "input": [*CODEX["input"], *items]})  # type: ignore[misc]
    gathered = chunks.Gathered()
    for each in given:
        gathered.add(each)
    (choice,) = gathered.choices
    expected = choice["message"]
    arguments = [json.loads(each["function"].pop("arguments")) for each in expected["tool_calls"]]
    found = asked.chat["messages"][-1]
    assert [json.loads(each["function"].pop("arguments")) for each in found["tool_calls"]] == arguments
    assert found == expected


def test_interleaved_calls_stay_whole() -> None:
    given = [call(0, '{"a"', "c-1", "exec"), call(1, '{"b"', "c-2", "exec"), call(0, ":1}"), call(1, ":2}")]
    found = events(streamed(*given, STOP))
    deltas = [(each["item_id"], each["delta"]) for each in found if each["type"].endswith("arguments.delta")]
    assert deltas == [
        ("fc_job-7_0", '{"a"'),
        ("fc_job-7_1", '{"b"'),
        ("fc_job-7_0", ":1}"),
        ("fc_job-7_1", ":2}"),
    ]
    assert accumulated(streamed(*given, STOP)) == found[-1]["response"] == whole(*given, STOP)


def test_call_begins_once_its_name_is_known() -> None:
    answer = DIALECT.read(BODY).answer(HEAD)
    answer.begin()
    assert answer.more(call(0, '{"a"', "c-1")) == answer.ping()
    added, delta = events(answer.more(call(0, ":1}", None, "exec")))
    assert (added["item"]["name"], added["item"]["call_id"], added["item"]["arguments"]) == (
        "exec",
        "c-1",
        "",
    )
    assert delta["delta"] == '{"a":1}'


def test_call_that_never_gets_a_name_is_told_at_the_end() -> None:
    given = [call(0, "{}"), call(1), STOP]
    (item,) = events(streamed(*given))[-1]["response"]["output"]
    assert (item["name"], item["arguments"]) == ("", "{}")
    assert whole(*given)["output"] == [item]


def test_call_without_arguments_has_an_empty_object() -> None:
    found = events(streamed(call(0, "", "c-1", "exec"), STOP))
    assert found[3]["delta"] == found[4]["arguments"] == "{}"


def test_call_in_the_older_form_is_a_call() -> None:
    given = [
        chunk(function_call={"name": "exec", "arguments": "{"}),
        chunk(function_call={"arguments": "}"}),
        STOP,
    ]
    (item,) = events(streamed(*given))[-1]["response"]["output"]
    assert (item["name"], item["arguments"]) == ("exec", "{}")
    assert whole(*given)["output"] == [item]


def test_calls_of_one_id_get_their_own() -> None:
    given = [call(0, "{}", "c", "exec"), call(1, "{}", "c", "exec"), STOP]
    items = accumulated(streamed(*given))["output"]
    assert [each["call_id"] for each in items] == ["c", "call_job-7_1"]
    assert items == whole(*given)["output"]


def test_white_space_before_a_call_is_no_message() -> None:
    given = [chunk(content="\n"), chunk(content=" \n"), call(0, "{}", "c", "exec"), chunk(content="\n"), STOP]
    for items in (events(streamed(*given))[-1]["response"]["output"], whole(*given)["output"]):
        assert [each["type"] for each in items] == ["function_call"]


def test_what_goes_on_after_another_kind_is_a_further_item() -> None:
    given = [chunk(content="a"), chunk(reasoning_content="b"), chunk(content="c"), call(0, "{}", "c", "exec")]
    items = accumulated(streamed(*given, chunk(content="d"), STOP))["output"]
    assert [each["id"] for each in items] == [
        *("msg_job-7", "rs_job-7", "msg_job-7_1", "fc_job-7_0", "msg_job-7_2"),
    ]


def test_refusal_is_a_part_of_the_message() -> None:
    given = [chunk(content="Well. "), chunk(refusal="I will "), chunk(refusal="not."), STOP]
    found = events(streamed(*given))
    assert kinds(found)[3:-1] == [
        *("content_part.added", "output_text.delta", "output_text.done", "content_part.done"),
        *("content_part.added", "refusal.delta", "refusal.delta", "refusal.done", "content_part.done"),
        "output_item.done",
    ]
    response = found[-1]["response"]
    assert response["output"][0]["content"][1] == {"type": "refusal", "refusal": "I will not."}
    assert response == whole(*given)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("length", "max_output_tokens"), ("content_filter", "content_filter"), (None, "max_output_tokens")],
)
def test_answer_that_was_cut_is_incomplete(reason: str | None, expected: str) -> None:
    given = [chunk(reasoning_content="t"), chunk(content="a"), chunk(reason)]
    *_, done, last = events(streamed(*given))
    assert (last["type"], last["response"]["status"]) == ("response.incomplete", "incomplete")
    assert last["response"]["incomplete_details"] == {"reason": expected}
    assert done["item"]["status"] == "incomplete"
    assert [each["status"] for each in last["response"]["output"]] == ["completed", "incomplete"]
    assert last["response"] == whole(*given)


def test_only_the_last_call_of_an_answer_that_was_cut_is_incomplete() -> None:
    given = [call(0, "{}", "c-1", "exec"), call(1, '{"cm', "c-2", "exec"), LENGTH]
    for items in (events(streamed(*given))[-1]["response"]["output"], whole(*given)["output"]):
        assert [each["status"] for each in items] == ["completed", "incomplete"]


def test_answer_without_output_is_whole() -> None:
    assert kinds(events(streamed(STOP))) == ["created", "in_progress", "completed"]
    assert accumulated(streamed(STOP)) == whole(STOP)


def test_log_probabilities_are_told_where_they_were_asked_for() -> None:
    given = [
        chunk(content="a", logprobs={"content": [LIKELY]}),
        chunk(content="a", logprobs={"content": [{**LIKELY, "bytes": None}, {"token": 5}, "x"]}),
        chunk("stop", logprobs={"content": 5}),
    ]
    asked = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
    found = events(streamed(*given, **asked))
    assert [each["logprobs"] for each in found if "logprobs" in each] == [[SHOWN], [SHOWN], [SHOWN, SHOWN]]
    response = found[-1]["response"]
    assert response["output"][0]["content"][0]["logprobs"] == [SHOWN, SHOWN]
    assert accumulated(streamed(*given, **asked)) == response == whole(*given, **asked)
    assert whole(*given)["output"][0]["content"][0]["logprobs"] == []


def test_only_the_first_choice_counts() -> None:
    given = [chunk(content="a"), chunk(index=1, content="b"), STOP, chunk("length", index=1)]
    assert events(streamed(*given))[-1]["response"] == whole(*given) == whole(chunk(content="a"), STOP)


def test_response_repeats_the_request() -> None:
    more = {
        "instructions": "Be brief.",
        "metadata": {"a": "b"},
        "tools": [*CODEX["tools"]],  # type: ignore[misc]
        "tool_choice": {"type": "function", "name": "exec_command"},
        "parallel_tool_calls": False,
        "temperature": 0.5,
        "max_output_tokens": 9,
        "text": {"verbosity": "low"},
        "reasoning": {"effort": "high"},
        "prompt_cache_key": "k",
        "store": True,
    }
    found = whole(STOP, **more)
    Response.model_validate(found, strict=True)
    repeated = {**more, "store": False, "reasoning": {"effort": "high", "summary": None}}
    repeated["text"] = {"format": {"type": "text"}, "verbosity": "low"}
    assert {name: found[name] for name in more} == repeated
    assert (found["created_at"], found["previous_response_id"]) == (1_700_000_000, None)


# Errors


def broken(code: str, text: str = "", **more: Any) -> bytes:
    answer = DIALECT.read(BODY).answer(HEAD)
    parts = [answer.begin(), answer.more(chunk(content="a"))]
    return b"".join([*parts, answer.broken(ApiError(code, text, **more))])


def test_openais_client_raises_the_error_of_a_stream() -> None:
    stream = broken("UNAVAILABLE", "The provider was lost.")
    with client(stream) as there, pytest.raises(openai.APIError, match=r"The provider was lost\.") as caught:
        list(there.responses.create(model="m", input="Hello", stream=True))
    assert (caught.value.code, caught.value.type) == ("unavailable", "server_error")
    with pytest.raises(openai.APIError, match=r"The provider was lost\."):
        accumulated(stream)


@pytest.mark.parametrize(
    ("code", "more", "expected"),
    [
        ("PROMPT_TOO_LONG", {"http_status": 400}, "context_length_exceeded"),
        ("BUDGET_REACHED", {}, "insufficient_quota"),
        ("RATE_LIMITED", {}, "rate_limit_exceeded"),
        ("BAD_PARAMS", {"http_status": 400}, "invalid_prompt"),
        ("UNAVAILABLE", {}, "server_error"),
        ("PROVIDER_UNAVAILABLE", {"http_status": 503}, "server_error"),
    ],
)
def test_failed_response_has_a_code_that_codex_acts_on(code: str, more: Values, expected: str) -> None:
    stream = broken(code, "Why.", **more)
    *told, error, failed = [json.loads(line[6:]) for line in stream.splitlines() if line[:6] == b"data: "]
    assert (error["type"], failed["type"]) == ("error", "response.failed")
    assert error["message"] == error["error"]["message"] == "Why."
    assert error["code"] == error["error"]["code"]
    assert failed["response"]["error"] == {"code": expected, "message": "Why."}
    assert failed["response"]["id"] == told[0]["response"]["id"]
    numbers = [each["sequence_number"] for each in (*told, error, failed)]
    assert numbers == list(range(len(numbers)))


def test_error_before_a_stream_is_that_of_openai() -> None:
    body = json.loads(DIALECT.error_body(ApiError("INVALID_FIELD", "x is wrong.", field="x"), "r"))
    assert body["error"] == {
        "message": "x is wrong.",
        "type": "invalid_request_error",
        "param": "x",
        "code": "invalid_field",
        "reason": "INVALID_FIELD",
    }


# Any stream

TEXTS = st.lists(st.text(min_size=1, max_size=4).map(lambda text: f"{text}."), max_size=3)
NAMES = ["exec", "apply_patch", "agents_v1__spawn", "agents_v1__script", "unknown"]


@st.composite
def call_chunks(draw: st.DrawFn, index: int) -> list[Values]:
    """The chunks of one tool call; its name may come late, and its id never."""
    text = draw(st.text('ab{}"\\\n🌍', max_size=12))
    arguments = draw(st.sampled_from([json.dumps({"input": text}), json.dumps({"b": text}), text]))
    cuts = draw(st.lists(st.integers(0, len(arguments)), max_size=4).map(sorted))
    pieces = [arguments[a:b] for a, b in itertools.pairwise([0, *cuts, len(arguments)])]
    named = draw(st.integers(0, len(pieces) - 1))
    call_id = draw(st.sampled_from([None, f"c-{index}"]))
    name = draw(st.sampled_from(NAMES))
    return [
        call(index, piece, *((call_id, name) if place == named else (None, None)))
        for place, piece in enumerate(pieces)
    ]


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[list[Values]], list[Values]]:
    """Thoughts, texts and calls, each in their order, and all of them interleaved."""
    parts = [
        [chunk(reasoning_content=text) for text in draw(TEXTS)],
        [chunk(content=text) for text in draw(TEXTS)],
        *(draw(call_chunks(index)) for index in draw(st.lists(st.integers(0, 9), unique=True, max_size=3))),
    ]
    turns = draw(st.permutations([place for place, part in enumerate(parts) for _ in part]))
    rests = [iter(part) for part in parts]
    return parts, [*(next(rests[place]) for place in turns), draw(st.sampled_from([STOP, LENGTH]))]


def told(found: list[Values]) -> list[Values]:
    """The items as the events tell them one by one, which must agree with one another."""
    items: list[Values] = []
    texts: dict[tuple[Any, Any], str] = {}
    for event in found:
        place, index = (
            event.get("output_index", -1),
            event.get("content_index", event.get("summary_index", 0)),
        )
        if event["type"] == "response.output_item.added":
            assert (place, event["item"]["status"]) == (len(items), "in_progress")
            items.append(event["item"])
        elif "item_id" in event:
            assert event["item_id"] == items[place]["id"]
            assert items[place]["status"] == "in_progress"
        if event["type"].endswith(".delta"):
            texts[place, index] = texts.get((place, index), "") + event["delta"]
        elif event["type"].endswith(("text.done", "input.done", "arguments.done")):
            done = event.get("text", event.get("input", event.get("arguments")))
            assert done == texts.get((place, index), "")
        elif event["type"] == "response.output_item.done":
            assert event["item"]["id"] == items[place]["id"]
            assert flat(event["item"]) == "".join(text for (of, _), text in texts.items() if of == place)
            items[place] = event["item"]
    return items


def flat(item: Values) -> str:
    """All that an item says, as one text."""
    parts = item.get("summary") or item.get("content") or ()
    return "".join([*(part["text"] for part in parts), item.get("arguments", ""), item.get("input", "")])


def by_kind(items: list[Values]) -> dict[Any, Any]:
    """What items say, whatever their order: the texts of each kind, and the calls."""
    found: dict[Any, Any] = {}
    for item in items:
        if item["type"] in ("message", "reasoning"):
            found[item["type"]] = found.get(item["type"], "") + flat(item)
        else:
            given = item["call_id"] if item["call_id"].startswith("c-") else "derived"
            key = (item["type"], item["name"], item.get("namespace"), given, flat(item))
            found[key] = found.get(key, 0) + 1
    return found


@hypothesis.given(answers(), st.sampled_from([None, "auto"]))
def test_any_stream_is_in_order_and_tells_what_the_whole_response_has(
    answer: tuple[list[list[Values]], list[Values]], summary: str | None
) -> None:
    _, given = answer
    more = {"reasoning": {"summary": summary}}
    found = events(streamed(*given, **more))
    assert [each["sequence_number"] for each in found] == list(range(len(found)))
    response = found[-1]["response"]
    Response.model_validate(response, strict=True)
    assert told(found) == response["output"]
    expected = whole(*given, **more)
    assert by_kind(response["output"]) == by_kind(expected["output"])
    assert {**response, "output": []} == {**expected, "output": []}
    ids = [each["id"] for each in response["output"]]
    assert len(set(ids)) == len(ids)


@hypothesis.given(answers())
@hypothesis.settings(max_examples=40, deadline=None)
def test_stream_in_the_usual_order_is_the_whole_response(
    answer: tuple[list[list[Values]], list[Values]],
) -> None:
    parts, given = answer
    calls = sorted(parts[2:], key=lambda part: part[0]["choices"][0]["delta"]["tool_calls"][0]["index"])
    ordered = [*itertools.chain(*parts[:2], *calls), given[-1]]
    expected = whole(*ordered)
    assert events(streamed(*ordered))[-1]["response"] == expected
    if expected["status"] == "completed":
        assert accumulated(streamed(*ordered)) == expected


@hypothesis.given(answers())
@hypothesis.settings(max_examples=40, deadline=None)
def test_openais_client_puts_together_any_stream(answer: tuple[list[list[Values]], list[Values]]) -> None:
    stream = streamed(*answer[1][:-1], STOP)
    assert accumulated(stream) == events(stream)[-1]["response"]


def test_custom_tool_call_of_a_patch_is_its_text() -> None:
    arguments = json.dumps({"input": PATCH})
    given = [call(0, "", "c", "apply_patch"), *(call(0, piece) for piece in arguments), STOP]
    (item,) = told(events(streamed(*given)))
    assert item["input"] == PATCH
