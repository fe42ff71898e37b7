"""Transition tables: which event changes which state into which.

A transition that is not in a table does not happen. Jobs, leases and artifacts have one table each, beside
their states. server.store.states derives the guards and the new states of all writes from these tables, so
removing a row from a table removes that write. This module does not know jobs, leases or artifacts.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Generic, TypeVar

State = TypeVar("State", bound=StrEnum)
Event = TypeVar("Event", bound=StrEnum)


class Transitions(Generic[State, Event]):
    """One transition table. As a source, None means not stored yet; as a target, no longer stored."""

    def __init__(self, rows: dict[tuple[State | None, Event], State | None]) -> None:
        self.rows = rows

    def next_state(self, state: State, event: Event) -> State | None:
        """The state that ``event`` leads to from ``state``; None if it is not allowed."""
        return self.rows.get((state, event))

    def sources(self, *events: Event) -> list[State]:
        """The states in which these events may happen, one after the other."""
        return list(self._paths(events))

    def _paths(self, events: Sequence[Event]) -> dict[State, State | None]:
        """The states in which these events may happen, each with the state that they lead to."""
        first, *then = events
        reached = {state: target for (state, known), target in self.rows.items() if known is first and state}
        for event in then:
            reached = {
                state: self.rows[after, event]
                for state, after in reached.items()
                if (after, event) in self.rows
            }
        return reached

    def moves(self, event: Event) -> dict[State | None, list[State]]:
        """The states that ``event`` leads to, each with the states that it leads there from."""
        found: dict[State | None, list[State]] = {}
        for (state, known), target in self.rows.items():
            if known is event and state is not None:
                found.setdefault(target, []).append(state)
        return found

    def target(self, *events: Event) -> State | None:
        """The state that these events lead to, one after the other, if it is only one."""
        (target,) = set(self._paths(events).values()) or {None}
        return target

    def first(self, event: Event) -> State:
        """The first state of a row that ``event`` creates. Raises LookupError if it creates none."""
        state = self.rows.get((None, event))
        if state is None:
            raise LookupError(f"{event} creates nothing")
        return state
