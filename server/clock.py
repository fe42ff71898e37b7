"""The server's clock. Only this module reads the system's time, so that tests can pass another clock."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Wall time in seconds since 1970, which services measure and store."""

    def now(self) -> float:
        """The time now."""
        ...


class SystemClock:
    """The machine's time at the start of the program, advanced by its monotonic clock.

    A step of the wall clock, back or forward, must not change a bill or lose a lease. Several servers follow
    the clock of their database, so that what one stores another can compare.
    """

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        return self._offset + time.monotonic()

    def follow(self, offset: float, *, at_most: float | None = None) -> None:
        """Follows another clock that is so many seconds ahead.

        It moves by no more than ``at_most``, so that no step of that clock makes a daemon look silent.
        """
        self._offset += offset if at_most is None else max(-at_most, min(at_most, offset))

    def ahead_of_system(self) -> float:
        """How many seconds it is ahead of the machine's clock."""
        return self.now() - time.time()


def ms(clock: Clock) -> int:
    """The time now, in milliseconds since 1970."""
    return int(clock.now() * 1000)
