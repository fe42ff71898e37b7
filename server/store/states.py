"""States in SQL: the guard and the new state of a write, derived from the transition tables of server.domain.

This is the only module of the store that converts a state into the text of a column. It must not know the
tables of the database: callers pass the column and the transition table.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from peewee import SQL

from server.domain.transitions import Event, State, Transitions


def may(column: Any, table: Transitions[State, Event], *events: Event) -> Any:
    """The guard of a write: the row is in a state that allows these events, one after the other.

    It is always false if no state does.
    """
    return column.in_([state.value for state in table.sources(*events)])


def after(table: Transitions[State, Event], *events: Event) -> str | None:
    """The state that these events lead to, for the SET of a write; None if its guard is always false."""
    target = table.target(*events)
    return target.value if target is not None else None


def moves(column: Any, table: Transitions[State, Event], event: Event) -> list[tuple[str, Any]]:
    """Each state that ``event`` leads to, with the guard of the write that leads there."""
    return [
        (target.value, column.in_([state.value for state in sources]))
        for target, sources in table.moves(event).items()
        if target is not None
    ]


def first(table: Transitions[State, Event], event: Event) -> str:
    """The state of the row that ``event`` inserts. Raises LookupError if ``event`` does not create a row."""
    return table.first(event).value


def stored(state: StrEnum) -> str:
    """The text of a state that the caller decided at run time."""
    return state.value


def literal(state: StrEnum) -> str:
    """A state as a literal, for SELECTs that are written as SQL text."""
    return f"'{state.value}'"


def is_exactly(column: Any, state: StrEnum) -> Any:
    """The same as ``is_in`` of one state, as SQL text: for a partial index, which a parameter may not use."""
    return column == SQL(literal(state))


def is_in(column: Any, *states: StrEnum) -> Any:
    """A condition for SELECTs: the row is in one of these states."""
    if len(states) == 1:
        return column == states[0].value
    return column.in_([state.value for state in states])


def is_not(column: Any, state: StrEnum) -> Any:
    """A condition for SELECTs: the row is in another state."""
    return column != state.value
