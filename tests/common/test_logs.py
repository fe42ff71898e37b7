"""How lines of the log are written, and to which request they belong."""

from __future__ import annotations

import contextvars
import io
import json
import logging
from collections.abc import Iterator
from threading import Thread
from typing import Any

import pytest

from common import logs


@pytest.fixture(autouse=True)
def _own_request() -> Iterator[None]:
    token = logs._request_id.set("")
    yield
    logs._request_id.reset(token)


class Written:
    """A logger and what it wrote."""

    def __init__(self, format_: str) -> None:
        self._stream = io.StringIO()
        handler = logging.StreamHandler(self._stream)
        handler.setFormatter(logs.formatter(format_, "%(levelname)s %(name)s %(message)s"))
        self.log = logging.Logger("dcp.test")
        self.log.addHandler(handler)

    @property
    def lines(self) -> list[str]:
        return self._stream.getvalue().splitlines()

    @property
    def entry(self) -> dict[str, Any]:
        (line,) = self.lines
        entry: dict[str, Any] = json.loads(line)
        return entry


@pytest.fixture
def text() -> Written:
    return Written("text")


@pytest.fixture
def written() -> Written:
    return Written("json")


def test_values_of_a_message_are_members_with_their_types(written: Written) -> None:
    written.log.info(
        "settled job_id=%s attempt=%d share=%.2f of 100%% by %r ended=%s", "j1", 2, 0.5, "x", None
    )
    entry = written.entry
    assert entry.pop("time").endswith("+00:00")
    assert entry == {
        "level": "info",
        "logger": "dcp.test",
        "message": "settled job_id=j1 attempt=2 share=0.50 of 100% by 'x' ended=None",
        "job_id": "j1",
        "attempt": 2,
        "share": 0.5,
        "ended": None,
    }


def test_place_that_is_written_as_pairs_is_members_too(written: Written) -> None:
    written.log.info("job finished outcome=%s %s of %s", "done", "job_id=j1 attempt=2 outcome=x", "a text=1")
    entry = written.entry
    assert (entry["outcome"], entry["job_id"], entry["attempt"]) == ("done", "j1", "2")
    assert "text" not in entry


def test_value_that_json_has_not_is_its_text(written: Written) -> None:
    written.log.warning("lost error=%s", ValueError("gone"))
    assert written.entry["error"] == "gone"


def test_message_cannot_change_what_every_line_has(written: Written) -> None:
    logs.begin_request("r1")
    written.log.info("x level=%s time=%s request_id=%s", "error", "never", "r2")
    assert (written.entry["level"], written.entry["request_id"]) == ("info", "r1")
    assert written.entry["time"] != "never"


def test_stack_and_line_ends_stay_in_one_line(written: Written) -> None:
    try:
        raise LookupError("one\ntwo")
    except LookupError:
        written.log.exception("failed what=%s", "a\nb\u2028c")
    assert "Traceback" in written.entry["exception"]
    assert written.entry["what"] == "a\nb\u2028c"


def test_line_of_a_request_has_its_id_once(text: Written) -> None:
    text.log.info("before")
    logs.begin_request("r1")
    text.log.info("within")
    text.log.info("failed request_id=%s", "r1")
    assert text.lines == [
        "INFO dcp.test before",
        "INFO dcp.test within request_id=r1",
        "INFO dcp.test failed request_id=r1",
    ]


def test_work_in_another_thread_belongs_to_its_request(text: Written) -> None:
    logs.begin_request("r1")
    work = logs.carried(lambda: text.log.info("wrote"))
    logs.begin_request("")
    for each in (work, logs.carried(lambda: text.log.info("wrote"))):
        thread = Thread(target=contextvars.Context().run, args=(each,))
        thread.start()
        thread.join()
    assert text.lines == ["INFO dcp.test wrote request_id=r1", "INFO dcp.test wrote"]


@pytest.mark.parametrize(
    ("text", "is_valid"),
    [
        ("a", True),
        ("4bf92f35-77b3.4da6_a", True),
        ("x" * 64, True),
        ("", False),
        ("x" * 65, False),
        ("a b", False),
        ("a\n", False),
        ('"}', False),
        ("é", False),
    ],
)
def test_only_harmless_ids_of_others_are_taken(text: str, is_valid: bool) -> None:
    assert logs.is_request_id(text) is is_valid
