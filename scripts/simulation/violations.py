"""The error that a violated invariant raises."""

from __future__ import annotations


class ViolationError(Exception):
    """An invariant is violated. `invariant` is its name; the message says where."""

    def __init__(self, invariant: str, detail: str) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant = invariant
