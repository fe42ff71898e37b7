"""The calls of the last hour: figures that neither calls nor time make grow."""

from __future__ import annotations

import pytest

from server.domain.recent_calls import MOST_FAILURES, RecentCalls

HOUR = 3600.0


def test_no_calls_have_no_durations() -> None:
    found = RecentCalls(100.0).figures(160.0)
    assert (found.calls, found.failed, found.p50_ms, found.p99_ms, found.failures) == (0, 0, None, None, ())
    assert found.since_s == 100.0


def test_durations_are_right_to_a_fifth() -> None:
    calls = RecentCalls(0.0)
    for duration_ms in range(1, 101):
        calls.note(50.0, "A/B", duration_ms / 1000, has_failed=False)
    found = calls.figures(60.0)
    assert found.calls == 100
    for value, exact in ((found.p50_ms, 50), (found.p95_ms, 95), (found.p99_ms, 99)):
        assert value is not None
        assert exact <= value <= exact * 1.2


def test_calls_of_more_than_an_hour_ago_are_gone() -> None:
    calls = RecentCalls(0.0)
    calls.note(10.0, "A/B", 0.1, has_failed=True)
    calls.note(HOUR - 1, "A/B", 0.1, has_failed=False)
    assert calls.figures(HOUR - 1).calls == 2
    found = calls.figures(HOUR + 1)
    assert (found.calls, found.failed, found.since_s) == (1, 0, 60.0)
    calls.note(HOUR + 10, "A/B", 0.1, has_failed=False)  # takes the place of the first minute
    assert calls.figures(HOUR + 10).calls == 2
    assert calls.figures(3 * HOUR).calls == 0


def test_failures_name_the_methods_that_failed_most() -> None:
    calls = RecentCalls(0.0)
    for number in range(1, 9):
        for _ in range(number):
            calls.note(1.0, f"A/{number}", 0.1, has_failed=True)
    found = calls.figures(2.0)
    assert found.failed == 36
    assert found.failures[0] == ("A/8", 8)
    assert len(found.failures) == MOST_FAILURES


@pytest.mark.parametrize("duration_s", [0.0, -1.0, 1e9])
def test_any_duration_is_counted(duration_s: float) -> None:
    calls = RecentCalls(0.0)
    calls.note(1.0, "A/B", duration_s, has_failed=False)
    assert calls.figures(1.0).calls == 1
