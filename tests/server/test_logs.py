"""The server's log in an outage: one whole stack, then lines with a number."""

from __future__ import annotations

import io
import logging

import pytest

from server.logs import QUIET_SECONDS, CountedStacks


@pytest.fixture
def written() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def log(written: io.StringIO) -> logging.Logger:
    log = logging.Logger("test")
    handler = logging.StreamHandler(written)
    handler.addFilter(CountedStacks())
    log.addHandler(handler)
    return log


def fail(log: logging.Logger, request: str, error: Exception) -> None:
    try:
        raise error
    except Exception:
        log.exception("a call failed request_id=%s", request)


def test_outage_writes_one_stack_and_a_line_for_each_call(log: logging.Logger, written: io.StringIO) -> None:
    for number in range(641):
        fail(log, f"r{number}", ValueError("gone"))
    text = written.getvalue()
    assert text.count("Traceback") == 1
    assert text.count("a call failed") == 641
    assert "a call failed request_id=r640 (ValueError no. 641; " in text


def test_another_fault_has_a_stack_of_its_own(log: logging.Logger, written: io.StringIO) -> None:
    for error in (ValueError("a"), ValueError("b"), LookupError("c")):
        fail(log, "r", error)
    assert written.getvalue().count("Traceback") == 2


def test_next_outage_has_a_stack_again(
    log: logging.Logger, written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    make = log.makeRecord

    def at(*arguments: object, **options: object) -> logging.LogRecord:
        record = make(*arguments, **options)  # type: ignore[arg-type]
        record.created = now[0]
        return record

    monkeypatch.setattr(log, "makeRecord", at)
    for later in (0.0, 1.0, QUIET_SECONDS + 1):
        now[0] += later
        fail(log, "r", ValueError("gone"))
    assert written.getvalue().count("Traceback") == 2
