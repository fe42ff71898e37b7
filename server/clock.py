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

    A step of the wall clock, back or forward, must not change a bill or lose a lease.
    """

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        return self._offset + time.monotonic()


def ms(clock: Clock) -> int:
    """The time now, in milliseconds since 1970."""
    return int(clock.now() * 1000)
