"""Token buckets: what they admit, when they fill, and how many are kept."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.domain.limits import WINDOW_SECONDS, Buckets

NOW = 1_800_000_000.0


def taken(buckets: Buckets, holder: str, now: float, tries: int) -> int:
    """How many of these simultaneous tries got a token."""
    return sum(buckets.take(holder, now) == 0 for _ in range(tries))


@given(st.integers(1, 20_000))
def test_full_bucket_gives_exactly_its_limit(per_minute: int) -> None:
    assert taken(Buckets(per_minute), "a", NOW, per_minute + 5) == per_minute


def test_bucket_fills_evenly_up_to_its_limit() -> None:
    buckets = Buckets(60)
    assert taken(buckets, "a", NOW, 100) == 60
    assert taken(buckets, "a", NOW + 10, 100) == 10
    assert taken(buckets, "a", NOW + 10_000, 100) == 60


def test_refusal_gives_the_waiting_time_and_takes_no_token() -> None:
    buckets = Buckets(6)
    taken(buckets, "a", NOW, 6)
    assert round(buckets.take("a", NOW), 6) == 10
    assert round(buckets.wait("a", NOW + 4), 6) == 6
    assert buckets.take("a", NOW + 10) == 0


def test_peek_takes_no_token() -> None:
    buckets = Buckets(1)
    assert [buckets.wait("a", NOW) for _ in range(3)] == [0, 0, 0]
    assert buckets.take("a", NOW) == 0
    assert buckets.wait("a", NOW) > 0


def test_holders_have_separate_buckets() -> None:
    buckets = Buckets(3)
    assert (taken(buckets, "a", NOW, 9), taken(buckets, "b", NOW, 2)) == (3, 2)


def test_zero_means_no_limit_and_keeps_no_bucket() -> None:
    buckets = Buckets(0)
    assert taken(buckets, "a", NOW, 1000) == 1000
    assert (buckets.wait("a", NOW), len(buckets)) == (0, 0)


def test_number_of_buckets_is_limited_and_the_longest_unused_is_dropped() -> None:
    buckets = Buckets(1, size=10)
    for number in range(10):
        buckets.take(number, NOW)
    assert buckets.take(0, NOW) > 0  # a refused holder is still remembered
    buckets.take("new", NOW)
    assert len(buckets) == 10
    assert buckets.take(0, NOW) > 0
    assert buckets.take(1, NOW) == 0


@given(st.lists(st.floats(0, 90), max_size=60), st.integers(1, 30))
def test_no_minute_admits_more_than_twice_the_limit(pauses: list[float], per_minute: int) -> None:
    """The maximum of a minute is a full bucket plus what fills in that minute."""
    buckets, now, passed = Buckets(per_minute), NOW, []
    for pause in pauses:
        now += pause / 10
        passed += [now for _ in range(5) if buckets.take("a", now) == 0]
    for start in passed:
        assert sum(start <= at < start + WINDOW_SECONDS for at in passed) <= 2 * per_minute
