"""What the simulator looks for."""

from __future__ import annotations


class ViolationError(Exception):
    """Something that must always hold does not. `invariant` names it; the text says where."""

    def __init__(self, invariant: str, detail: str) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant = invariant
