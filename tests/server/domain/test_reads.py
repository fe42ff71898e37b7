"""The turns of reads that may grow: bounded, one of each account at once, and fair."""

from __future__ import annotations

from functools import partial

import pytest

from server.domain.errors import DomainError, Reason
from server.domain.reads import Purpose, Turns, end_of_reads, present, reading_for


def enter(turns: Turns, begun: list[str], name: str) -> None:
    """The read's first letter is its owner."""
    turns.enter(name[0], partial(begun.append, name))


def test_an_account_reads_one_at_a_time_and_leaves_room_for_others() -> None:
    turns, begun = Turns(most=3), list[str]()
    for name in ("a1", "a2", "a3", "a4", "b1", "c1", "d1"):
        enter(turns, begun, name)
    assert begun == ["a1", "b1", "c1"]
    turns.leave("b")
    assert begun == ["a1", "b1", "c1", "d1"], "a has one already"
    turns.leave("a")
    turns.leave("d")
    assert begun == ["a1", "b1", "c1", "d1", "a2"], "one of a, though there is room"


def test_accounts_take_turns() -> None:
    turns, begun = Turns(most=1), list[str]()
    for name in ("x0", "a1", "a2", "a3", "b1", "b2", "c1"):
        enter(turns, begun, name)
    while len(begun) < 7:
        turns.leave(begun[-1][0])
    assert begun == ["x0", "a1", "b1", "c1", "a2", "b2", "a3"]


def test_an_account_that_waits_for_too_many_is_refused_and_others_are_not() -> None:
    turns, begun = Turns(most=1, waiting=3, of_one=2), list[str]()
    for name in ("a1", "a2", "a3"):
        enter(turns, begun, name)
    with pytest.raises(DomainError, match="one after the other") as refused:
        enter(turns, begun, "a4")
    assert (refused.value.reason, refused.value.facts) == (
        Reason.RATE_LIMITED,
        {"retry_after_seconds": 2},
    )
    enter(turns, begun, "b1")
    with pytest.raises(DomainError, match="too many lists") as full:
        enter(turns, begun, "c1")
    assert (full.value.reason, full.value.facts) == (Reason.OVERLOADED, {"retry_after_seconds": 2})


def test_a_read_that_is_given_up_makes_room() -> None:
    turns, begun = Turns(most=1, waiting=1), list[str]()
    enter(turns, begun, "a1")
    unwanted = partial(begun.append, "b1")
    turns.enter("b", unwanted)
    assert turns.give_up("b", unwanted)
    assert not turns.give_up("b", unwanted)
    enter(turns, begun, "c1")
    turns.leave("a")
    assert begun == ["a1", "c1"]


@pytest.mark.parametrize(("left", "end"), [(10.0, 109.75), (0.2, 100.1), (0.0, 100.0), (None, None)])
def test_reads_end_before_their_caller_stops_waiting(left: float | None, end: float | None) -> None:
    assert end_of_reads(100.0, left) == end


def test_a_call_that_has_ended_limits_no_later_read() -> None:
    purpose = Purpose("a", 1.0)
    assert present() is None
    with reading_for(purpose):
        assert present() is purpose
        inherited = present  # what a task that the call started would call
        purpose.is_over = True
        assert inherited() is None
    assert present() is None
