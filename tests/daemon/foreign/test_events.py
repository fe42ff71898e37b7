"""Server-sent events, by the examples and the rules of the WHATWG's standard."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.documents import DocumentError
from daemon.foreign.events import EventReader, ServerEvent


def read(data: bytes, size: int = 1 << 20) -> list[tuple[str, str]]:
    reader = EventReader()
    events: list[ServerEvent] = []
    for at in range(0, len(data), size):
        events += reader.feed(data[at : at + size])
    return [(event.kind, event.data) for event in events]


STREAMS = [
    pytest.param(b"data: a\n\n", [("", "a")], id="one event"),
    pytest.param(b"data:a\ndata:  b\n\n", [("", "a\n b")], id="several data lines, one space is removed"),
    pytest.param(
        b"data: a\r\n\r\ndata: b\r\rdata: c\n\n", [("", "a"), ("", "b"), ("", "c")], id="all line ends"
    ),
    pytest.param(b"\xef\xbb\xbfdata: a\n\n", [("", "a")], id="a byte order mark"),
    pytest.param(b"data: \xef\xbb\xbfa\n\n", [("", "\ufeffa")], id="only the first is a mark"),
    pytest.param(b"data:\n\ndata\n\ndata: a\n\n", [("", "a")], id="empty events"),
    pytest.param(b": ping\n\n:\n\ndata: a\n: ping\ndata: b\n\n", [("", "a\nb")], id="comments"),
    pytest.param(b"event: error\ndata: a\n\ndata: b\n\n", [("error", "a"), ("", "b")], id="kinds"),
    pytest.param(b"error: a\n\n", [("error", "a")], id="the field of llama.cpp"),
    pytest.param(b"id: 1\nretry: 5\nnonsense\ndata: a\n\n", [("", "a")], id="other fields"),
    pytest.param(b"data: a\n\ndata: b\n", [("", "a")], id="an event that is cut off"),
    pytest.param("data: x\u2028y\u0085z\n\n".encode(), [("", "x\u2028y\u0085z")], id="separators of Unicode"),
    pytest.param(b"data: \xff\n\n", [("", "\ufffd")], id="bytes that are not UTF-8"),
]


@pytest.mark.parametrize(("data", "events"), STREAMS)
def test_stream_is_read_by_the_standard(data: bytes, events: list[tuple[str, str]]) -> None:
    assert read(data) == events


@pytest.mark.parametrize(("data", "events"), STREAMS)
@given(size=st.integers(1, 12))
def test_stream_may_be_cut_anywhere(data: bytes, events: list[tuple[str, str]], size: int) -> None:
    assert read(data, size) == events


@pytest.mark.parametrize(
    "data", [b"x" * 1000, b": " + b"x" * 1000 + b"\n", b"data: " + b"x" * 1000, b"data: 12345\n" * 100]
)
def test_line_and_event_are_bounded(data: bytes) -> None:
    reader = EventReader(most_bytes=500)
    pieces = (data[at : at + 64] for at in range(0, len(data), 64))
    with pytest.raises(DocumentError, match="without an end"):
        _ = [event for piece in pieces for event in reader.feed(piece)]
