"""OpenAI's older completions: requests, and answers as OpenAI's client reads them."""

from __future__ import annotations

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
from openai.types import Completion

from gateway.dialects import Asked, Dialect, Head, chunks
from gateway.dialects.openai_completions import OpenAICompletions
from gateway.errors import ApiError

Values = dict[str, Any]

DIALECT: Dialect = OpenAICompletions()
HEAD = Head("job-7", 1_700_000_000)
JOB = jobs_pb2.Job(usage=jobs_pb2.Usage(prompt_tokens=50, completion_tokens=7, cached_tokens=20))
USAGE = {
    "prompt_tokens": 50,
    "completion_tokens": 7,
    "total_tokens": 57,
    "prompt_tokens_details": {"cached_tokens": 20},
}
ARABIC = "مرحبا 🌍"


def read(**more: Any) -> Asked:
    return DIALECT.read({"model": "m", "prompt": "Once", **more})


def chunk(reason: str | None = None, index: int = 0, logprobs: Any = None, **delta: Any) -> Values:
    """A chunk as the model server's line gives it, through the real reader of such lines."""
    choice = {"index": index, "delta": delta, "finish_reason": reason, "logprobs": logprobs}
    found = chunks.read(json.dumps({"choices": [choice]}))
    assert found is not None
    return found


def token(text: str, logprob: float, *others: tuple[str, float]) -> Values:
    top = [{"token": each, "logprob": value, "bytes": None} for each, value in ((text, logprob), *others)]
    return {"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": top}


def streamed(*given: Values, **more: Any) -> bytes:
    answer = read(**more).answer(HEAD)
    return b"".join([answer.begin(), *map(answer.more, given), answer.ping(), answer.end(JOB)])


def whole(*given: Values, **more: Any) -> Values:
    gathered = chunks.Gathered()
    for each in given:
        gathered.add(each)
    found: Values = json.loads(read(**more).answer(HEAD).whole(gathered.choices, JOB))
    Completion.model_validate(found, strict=True)
    return found


def told(stream: bytes) -> list[Values]:
    """The chunks of a stream, which ends with its mark."""
    lines = [line for line in stream.decode().split("\n\n")[:-1] if line != ":"]
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


@contextmanager
def client(content: bytes) -> Iterator[openai.OpenAI]:
    """OpenAI's client at a server that gives this answer."""
    kind = "application/json" if content.startswith(b"{") else "text/event-stream"
    response = httpx2.Response(200, headers={"content-type": kind}, content=content)
    with (
        httpx2.Client(transport=httpx2.MockTransport(lambda _: response)) as connections,
        openai.OpenAI(
            api_key="k", base_url="http://gateway/v1", http_client=connections, max_retries=0
        ) as found,
    ):
        yield found


# Requests


def test_prompt_is_a_message_of_the_user() -> None:
    for prompt in (ARABIC, [ARABIC]):
        asked = read(prompt=prompt)
        assert asked.chat == {"messages": [{"role": "user", "content": ARABIC}]}
        assert (asked.model, asked.is_stream, asked.max_tokens, asked.cache_key) == ("m", False, None, "")


def test_options_pass() -> None:
    options = {
        "temperature": 0.5,
        "top_p": 0.9,
        "n": 2,
        "seed": 4,
        "stop": ["\n"],
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "logit_bias": {"5": 1},
    }
    asked = read(**options, max_tokens=7, stream=True, user="u", prompt_cache_key="k", best_of=2, echo=False)
    assert asked.chat == {"messages": [{"role": "user", "content": "Once"}], **options}
    assert (asked.max_tokens, asked.is_stream, asked.cache_key) == (7, True, "k")


def test_what_completions_do_not_have_is_left_out() -> None:
    asked = read(
        messages=[{"role": "user", "content": "x"}], tools=[{"type": "function"}], tool_choice="required"
    )
    assert asked.chat == {"messages": [{"role": "user", "content": "Once"}]}


@pytest.mark.parametrize("most", [0, 5])
def test_log_probabilities_are_asked_for_in_the_form_of_chats(most: int) -> None:
    asked = read(logprobs=most)
    assert (asked.chat["logprobs"], asked.chat["top_logprobs"]) == (True, most)


@pytest.mark.parametrize(
    ("given", "field", "remedy"),
    [
        ({"model": None}, "model", "/v1/models"),
        ({"prompt": None}, "prompt", "required"),
        ({"prompt": {"a": 1}}, "prompt", "text"),
        ({"prompt": ["a", "b"]}, "prompt", "a request for each"),
        ({"prompt": []}, "prompt", "one text"),
        ({"prompt": [1, 2]}, "prompt", "tokenized_requests=False"),
        ({"prompt": [[1, 2]]}, "prompt", "tokens"),
        ({"suffix": "end"}, "suffix", "prompt"),
        ({"echo": True}, "echo", "log probabilities"),
        ({"best_of": 3, "n": 2}, "best_of", "n answers"),
        ({"logprobs": True}, "logprobs", "0 to 20"),
        ({"logprobs": 21}, "logprobs", "0 to 20"),
        ({"max_tokens": 0}, "max_tokens", "at least 1"),
    ],
)
def test_refusal_names_field_and_remedy(given: Values, field: str, remedy: str) -> None:
    with pytest.raises(ApiError) as caught:
        read(**given)
    assert (caught.value.code, caught.value.facts["field"]) == ("INVALID_FIELD", field)
    assert caught.value.text.startswith(f"{field} ")
    assert remedy in caught.value.text


# Answers


def test_whole_answer() -> None:
    given = [
        chunk(role="assistant", content=""),
        chunk(content="upon "),
        chunk(content=ARABIC),
        chunk("stop"),
    ]
    found = whole(*given)
    assert found == {
        "id": "cmpl-job-7",
        "object": "text_completion",
        "created": 1_700_000_000,
        "model": "m",
        "choices": [{"index": 0, "text": f"upon {ARABIC}", "logprobs": None, "finish_reason": "stop"}],
        "usage": USAGE,
    }
    with client(json.dumps(found).encode()) as there:
        assert there.completions.create(model="m", prompt="Once").to_dict() == found


def test_stream_has_texts_the_reason_and_the_counts_that_were_asked_for() -> None:
    stream = streamed(
        *[chunk(role="assistant", content=""), chunk(content="upon "), chunk(content=ARABIC), chunk("stop")],
        stream_options={"include_usage": True},
    )
    *texts, last, counts = told(stream)
    assert [each["choices"][0]["text"] for each in texts] == ["upon ", ARABIC]
    assert last["choices"] == [{"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"}]
    assert (counts["choices"], counts["usage"], last["usage"]) == ([], USAGE, None)
    with client(stream) as there:
        read = there.completions.create(model="m", prompt="Once", stream=True)
        assert [each.to_dict() for each in read] == told(stream)


def test_stream_without_counts_ends_with_its_mark() -> None:
    (only,) = told(streamed(chunk("length", content="a")))
    assert only["choices"][0]["finish_reason"] == "length"
    assert "usage" not in only


def test_several_answers_keep_their_places() -> None:
    given = [chunk(content="a"), chunk(index=1, content="b"), chunk("stop", index=1), chunk("length")]
    choices = [(each["index"], each["text"], each["finish_reason"]) for each in whole(*given, n=2)["choices"]]
    assert choices == [(0, "a", "length"), (1, "b", "stop")]
    assert [each["choices"][0]["index"] for each in told(streamed(*given, n=2))] == [0, 1, 1, 0]


def test_thoughts_are_left_out_but_keep_the_connection_alive() -> None:
    answer = read().answer(HEAD)
    assert answer.more(chunk(reasoning_content="Hm")) == answer.ping()
    assert (
        whole(chunk(reasoning_content="Hm"), chunk(content="a"), chunk("stop"))["choices"][0]["text"] == "a"
    )


def test_reason_that_completions_do_not_know_is_a_stop_and_none_is_a_cut() -> None:
    assert whole(chunk("tool_calls", content="a"))["choices"][0]["finish_reason"] == "stop"
    assert whole(chunk(content="a"))["choices"][0]["finish_reason"] == "length"


def test_log_probabilities_have_the_older_form() -> None:
    given = [
        chunk(content="Hé ", logprobs={"content": [token("Hé", -0.5, ("He", -1.5)), token(" ", -0.25)]}),
        chunk(index=1, content="x", logprobs={"content": [token("x", -2.0)]}),
        chunk("stop", content="you", logprobs={"content": [token("you", -1.0), {"token": 5}, "x"]}),
        chunk(logprobs={"content": 5}),
        chunk(logprobs={"content": [{**token("", -1.0), "top_logprobs": 5}]}),
    ]
    first, second = whole(*given, logprobs=2, n=2)["choices"]
    assert first["logprobs"] == {
        "tokens": ["Hé", " ", "you", ""],
        "token_logprobs": [-0.5, -0.25, -1.0, -1.0],
        "top_logprobs": [{"Hé": -0.5, "He": -1.5}, {" ": -0.25}, {"you": -1.0}, {}],
        "text_offset": [0, 2, 3, 6],
    }
    assert second["logprobs"]["text_offset"] == [0]
    joined: dict[int, Values] = {}
    for each in told(streamed(*given, logprobs=2, n=2)):
        (choice,) = each["choices"]
        for name, values in (choice["logprobs"] or {}).items():
            joined.setdefault(choice["index"], {}).setdefault(name, []).extend(values)
    assert joined == {0: first["logprobs"], 1: second["logprobs"]}
    assert whole(*given)["choices"][0]["logprobs"] is None


@hypothesis.given(
    st.lists(
        st.builds(
            lambda index, text, thought: chunk(index=index, content=text, reasoning_content=thought),
            st.integers(0, 2),
            st.text(max_size=4),
            st.text(max_size=4),
        )
    )
)
def test_any_stream_tells_what_the_whole_answer_has(given: list[Values]) -> None:
    given = [*given, *(chunk("stop", index=index) for index in range(3))]
    texts: dict[int, str] = {}
    for each in told(streamed(*given)):
        (choice,) = each["choices"]
        texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    assert texts == {each["index"]: each["text"] for each in whole(*given)["choices"]}


def test_openais_client_raises_the_error_of_a_stream() -> None:
    error = ApiError("UNAVAILABLE", "The provider was lost.")
    answer = read().answer(HEAD)
    stream = b"".join([answer.begin(), answer.more(chunk(content="a")), answer.broken(error)])
    with client(stream) as there, pytest.raises(openai.APIError, match=r"The provider was lost\."):
        list(there.completions.create(model="m", prompt="Once", stream=True))
