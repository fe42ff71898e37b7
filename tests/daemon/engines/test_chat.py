"""The translation between jobs and the OpenAI chat API."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from dcp.v1 import jobs_pb2, sessions_pb2
from hypothesis import given
from hypothesis import strategies as st

from daemon.engines import EngineError, chat, refusals


def offered(**params: Any) -> sessions_pb2.JobOffer:
    return sessions_pb2.JobOffer(params=jobs_pb2.JobParams(**params))


async def pieces_of(data: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


@given(size=st.integers(1, 40))
async def test_events_are_parsed_despite_any_split_and_unicode_line_separators(size: int) -> None:
    text = 'data: {"a": "x\u2028y\u0085z"}\n\ndata: {"b": 1}\r\n\nerror: {"code": 500}\n\ndata: [DONE]\n\n'
    events = [event async for event in chat.events(pieces_of(text.encode(), size))]
    assert events == [{"a": "x\u2028y\u0085z"}, {"b": 1}, {"error": {"code": 500}}]


def test_only_the_default_length_is_sent_to_the_model_server() -> None:
    body = chat.request_body(offered(model="m", prompt="hi"))
    assert body["max_tokens"] == 256
    assert "temperature" not in body
    assert body["messages"] == [{"role": "user", "content": "hi"}]


def test_zero_temperature_is_passed_on() -> None:
    assert chat.request_body(offered(prompt="hi", temperature=0))["temperature"] == 0


def talk(**asked: Any) -> sessions_pb2.JobOffer:
    request = json.dumps({"messages": [{"role": "user", "content": "hi"}], **asked}).encode()
    return sessions_pb2.JobOffer(params=jobs_pb2.JobParams(model="m", max_tokens=9), chat_request=request)


def test_conversation_passes_as_it_is_within_what_the_job_pays_for() -> None:
    asked = {"tools": [{"type": "function", "function": {"name": "f"}}], "n": 2, "temperature": 0}
    more = {"max_tokens": 10**6, "n_predict": 10**6, "model": "other", "stream": False, "chat_template": "x"}
    body = chat.request_body(talk(**asked, **more))
    assert body == {
        **asked,
        "messages": [{"role": "user", "content": "hi"}],
        "model": "m",
        "max_tokens": 9,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize("url", ["http://127.0.0.1/x.png", "file:///etc/passwd", None])
def test_address_in_a_conversation_never_reaches_the_model_server(url: Any) -> None:
    part = {"type": "image_url", "image_url": {"url": url}}
    with pytest.raises(EngineError) as refused:
        chat.request_body(talk(messages=[{"role": "user", "content": [part]}]))
    assert refused.value.reason == jobs_pb2.FAILURE_REASON_BAD_PARAMS
    for text in (b"[", b"[]", b"\xff"):
        with pytest.raises(EngineError):
            chat.request_body(sessions_pb2.JobOffer(chat_request=text))


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (
            400,
            b'{"error": {"type": "exceed_context_size_error"}}',
            jobs_pb2.FAILURE_REASON_PROMPT_TOO_LONG,
        ),
        (400, b'{"error": {"type": "invalid_request_error"}}', jobs_pb2.FAILURE_REASON_BAD_PARAMS),
        (422, b"not json", jobs_pb2.FAILURE_REASON_BAD_PARAMS),
        (401, b"{}", jobs_pb2.FAILURE_REASON_ENGINE_FAILED),
        (500, b"[]", jobs_pb2.FAILURE_REASON_ENGINE_FAILED),
        (503, b'{"error": "loading"}', jobs_pb2.FAILURE_REASON_ENGINE_FAILED),
    ],
)
def test_refusals_are_mapped_to_the_party_at_fault(
    status: int, body: bytes, reason: jobs_pb2.FailureReason.ValueType
) -> None:
    assert refusals.refusal(refusals.error_of_body(status, body), 2048).reason == reason
