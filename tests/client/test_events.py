"""Server-sent events, line by line."""

from __future__ import annotations

import json

import pytest
from dcp_client import objects
from dcp_client.events import Message, Parser
from dcp_client.reading import MalformedError


def read(*lines: str) -> list[Message]:
    parser = Parser()
    return [message for line in lines for message in parser.feed(line)]


def test_message_is_complete_at_the_empty_line() -> None:
    assert read(": alive", "id: 1.2", "event: output", "data: a", "data:b") == []
    assert read("id: 1.2", "event: output", "data: a", "data:b", "", "") == [Message("output", "1.2", "a\nb")]


def test_id_stays_until_the_next_and_the_name_does_not() -> None:
    assert read("id: 1", "event: log", "data: a", "", "data: b", "") == [
        Message("log", "1", "a"),
        Message("message", "1", "b"),
    ]


def test_events_of_a_job_have_models() -> None:
    event = Message("output", "1", '{"text": "hi"}').job_event()
    assert (event.text, event.job) == ("hi", None)
    ended = Message("end", "2", json.dumps({"job": {"job_id": "job-1", "status": "completed"}})).job_event()
    assert ended.job is not None
    assert (ended.job.job_id, ended.text) == ("job-1", "")
    assert isinstance(Message("state", "3", '{"status": "running"}').job_event().data, objects.JobStateEvent)


def test_kind_that_is_newer_than_the_client_is_kept() -> None:
    event = Message("picture", "1", '{"pixels": 3}').job_event()
    assert (event.kind, event.data, event.raw) == ("picture", None, {"pixels": 3})


@pytest.mark.parametrize("data", ["", "{", "[]"])
def test_data_that_is_not_an_object_is_malformed(data: str) -> None:
    with pytest.raises(MalformedError):
        Message("state", "1", data).job_event()
