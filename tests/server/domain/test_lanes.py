"""The order of a stream's messages: one after another about one job, side by side about several."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from server.domain.lanes import AT_ONCE, WAITING, Lanes


def started(lanes: Lanes[int]) -> list[tuple[str, int]]:
    return list(lanes.start())


def test_messages_about_one_job_wait_for_each_other_and_those_of_others_do_not() -> None:
    lanes: Lanes[int] = Lanes()
    for job, message in (("a", 1), ("a", 2), ("b", 3)):
        lanes.put(job, message)
    assert started(lanes) == [("a", 1), ("b", 3)]
    lanes.done("b")
    assert started(lanes) == []
    lanes.done("a")
    assert started(lanes) == [("a", 2)]
    assert not lanes.is_idle
    lanes.done("a")
    assert lanes.is_idle


def test_only_so_many_messages_are_handled_at_once_and_so_many_more_are_taken() -> None:
    lanes: Lanes[int] = Lanes()
    for number in range(AT_ONCE + WAITING):
        assert not lanes.is_full
        lanes.put(f"job {number}", number)
    assert lanes.is_full
    assert [number for _, number in started(lanes)] == list(range(AT_ONCE))
    lanes.done("job 3")
    assert not lanes.is_full
    assert [number for _, number in started(lanes)] == [AT_ONCE]


@given(st.data())
def test_every_message_is_handled_once_in_the_order_of_its_job(data: st.DataObject) -> None:
    lanes: Lanes[int] = Lanes()
    under_way: list[tuple[str, int]] = []
    handled: dict[str, list[int]] = defaultdict(list)
    put: dict[str, list[int]] = defaultdict(list)
    left = data.draw(st.lists(st.sampled_from("abc"), max_size=AT_ONCE + WAITING))
    for number, job in enumerate(left):
        lanes.put(job, number)
        put[job].append(number)
    under_way += lanes.start()
    while under_way:
        assert len({job for job, _ in under_way}) == len(under_way) <= AT_ONCE
        job, number = under_way.pop(data.draw(st.integers(0, len(under_way) - 1)))
        handled[job].append(number)
        lanes.done(job)
        under_way += lanes.start()
    assert lanes.is_idle
    assert handled == put
