"""Token buckets: what they let through, when they fill, and that they are bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.domain.limits import WINDOW_SECONDS, Buckets

NOW = 1_800_000_000.0


def taken(buckets: Buckets, holder: str, now: float, tries: int) -> int:
    """How many of so many tries at one moment got a token."""
    return sum(buckets.take(holder, now) == 0 for _ in range(tries))


@given(st.integers(1, 20_000))
def test_full_bucket_gives_its_figure_and_no_more(per_minute: int) -> None:
    assert taken(Buckets(per_minute), "a", NOW, per_minute + 5) == per_minute


def test_bucket_fills_evenly_and_no_further_than_full() -> None:
    buckets = Buckets(60)
    assert taken(buckets, "a", NOW, 100) == 60
    assert taken(buckets, "a", NOW + 10, 100) == 10
    assert taken(buckets, "a", NOW + 10_000, 100) == 60


def test_refusal_tells_when_there_is_a_token_and_takes_none() -> None:
    buckets = Buckets(6)
    taken(buckets, "a", NOW, 6)
    assert round(buckets.take("a", NOW), 6) == 10
    assert round(buckets.wait("a", NOW + 4), 6) == 6
    assert buckets.take("a", NOW + 10) == 0


def test_looking_takes_nothing() -> None:
    buckets = Buckets(1)
    assert [buckets.wait("a", NOW) for _ in range(3)] == [0, 0, 0]
    assert buckets.take("a", NOW) == 0
    assert buckets.wait("a", NOW) > 0


def test_holders_do_not_touch_each_other() -> None:
    buckets = Buckets(3)
    assert (taken(buckets, "a", NOW, 9), taken(buckets, "b", NOW, 2)) == (3, 2)


def test_zero_is_no_limit_and_costs_no_memory() -> None:
    buckets = Buckets(0)
    assert taken(buckets, "a", NOW, 1000) == 1000
    assert (buckets.wait("a", NOW), len(buckets)) == (0, 0)


def test_number_of_buckets_is_bounded_and_the_longest_unused_goes() -> None:
    buckets = Buckets(1, size=10)
    for number in range(10):
        buckets.take(number, NOW)
    assert buckets.take(0, NOW) > 0  # who is refused is not forgotten for it
    buckets.take("new", NOW)
    assert len(buckets) == 10
    assert buckets.take(0, NOW) > 0
    assert buckets.take(1, NOW) == 0


@given(st.lists(st.floats(0, 90), max_size=60), st.integers(1, 30))
def test_no_window_lets_through_more_than_twice_the_figure(pauses: list[float], per_minute: int) -> None:
    """A full bucket and a minute's filling: the most that any minute can see."""
    buckets, now, passed = Buckets(per_minute), NOW, []
    for pause in pauses:
        now += pause / 10
        passed += [now for _ in range(5) if buckets.take("a", now) == 0]
    for start in passed:
        assert sum(start <= at < start + WINDOW_SECONDS for at in passed) <= 2 * per_minute
