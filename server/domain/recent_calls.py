"""The calls of the last hour, in memory: how many, how many failed, and how long they took. Pure.

It grows with neither calls nor time: a bucket for each minute, and in it a count for each span of durations.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

MINUTES = 60
# Upper ends of the spans of durations, in milliseconds: each is a fifth longer than the one before.
BOUNDS_MS = tuple(0.1 * 1.2**number for number in range(80))
MOST_FAILURES = 5


@dataclass(slots=True)
class _Minute:
    number: int
    spans: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_MS) + 1))
    failed: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class CallFigures:
    """The calls since a time. A duration is the upper end of its span, and None without calls."""

    since_s: float
    calls: int
    failed: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    failures: tuple[tuple[str, int], ...]
    """The methods that failed most often, with the number of their failures."""


class RecentCalls:
    """Counts calls as they end. ``start_s`` is when counting began, on the clock of ``note``."""

    def __init__(self, start_s: float) -> None:
        self._start_s = start_s
        self._minutes: dict[int, _Minute] = {}

    def note(self, now_s: float, method: str, duration_s: float, *, has_failed: bool) -> None:
        """Adds a call that ended."""
        number = int(now_s // 60)
        place = number % MINUTES
        minute = self._minutes.get(place)
        if minute is None or minute.number != number:
            minute = self._minutes[place] = _Minute(number)
        minute.spans[bisect_left(BOUNDS_MS, duration_s * 1000)] += 1
        if has_failed:
            minute.failed[method] += 1

    def figures(self, now_s: float) -> CallFigures:
        """The calls of the last hour."""
        newest = int(now_s // 60)
        first = newest - MINUTES + 1
        found = [minute for minute in self._minutes.values() if first <= minute.number <= newest]
        spans = [sum(counts) for counts in zip(*(minute.spans for minute in found), strict=True)]
        failed: Counter[str] = sum((minute.failed for minute in found), Counter())
        p50, p95, p99 = (_percentile(spans, share) for share in (0.5, 0.95, 0.99))
        since_s = max(self._start_s, first * 60.0)
        most = tuple(failed.most_common(MOST_FAILURES))
        return CallFigures(since_s, sum(spans), failed.total(), p50, p95, p99, most)


def _percentile(spans: list[int], share: float) -> float | None:
    """The upper end of the span that has the call of this rank."""
    rank, passed = share * sum(spans), 0
    for place, count in enumerate(spans):
        passed += count
        if count and passed >= rank:
            return BOUNDS_MS[min(place, len(BOUNDS_MS) - 1)]
    return None
