"""Transition tables: which event moves a noun from which state to which.

What is not in a table does not happen. Jobs, leases and artifacts have one table each, beside their states.
The guards and the new states of all writes are made from it by server.store.states, so a row that is removed
is a write that no longer happens. This module knows no noun.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Generic, TypeVar

State = TypeVar("State", bound=StrEnum)
Event = TypeVar("Event", bound=StrEnum)


class Transitions(Generic[State, Event]):
    """One noun's table. None as a source means not stored yet; None as a target, not stored any more."""

    def __init__(self, rows: dict[tuple[State | None, Event], State | None]) -> None:
        self.rows = rows

    def next_state(self, state: State, event: Event) -> State | None:
        """Where ``event`` leads from ``state``; None where it may not happen."""
        return self.rows.get((state, event))

    def sources(self, event: Event) -> list[State]:
        """The states in which ``event`` may happen."""
        return [state for state, known in self.rows if known is event and state is not None]

    def moves(self, event: Event) -> dict[State | None, list[State]]:
        """Where ``event`` leads, each time with the states that it leads there from."""
        found: dict[State | None, list[State]] = {}
        for (state, known), target in self.rows.items():
            if known is event and state is not None:
                found.setdefault(target, []).append(state)
        return found

    def target(self, event: Event) -> State | None:
        """Where ``event`` leads; for events that lead to the same state from everywhere."""
        (target,) = self.moves(event) or (None,)
        return target

    def first(self, event: Event) -> State:
        """The state of what ``event`` creates. Raises LookupError where the table lets it create nothing."""
        state = self.rows.get((None, event))
        if state is None:
            raise LookupError(f"{event} creates nothing")
        return state
