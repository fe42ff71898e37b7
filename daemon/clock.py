"""Owns the port to time: everything in the daemon that measures receives one.

Durations only; the daemon needs no time of day (jobs are metered with the
monotonic clock, which no adjustment of the system's clock can bend).
"""

import time
from typing import Protocol


class Clock(Protocol):
    """What tells how much time has passed."""

    def monotonic(self) -> float:
        """Seconds since some fixed point; never goes back."""
        ...


class SystemClock:
    """The machine's own monotonic clock."""

    def monotonic(self) -> float:
        """Seconds since some fixed point; never goes back."""
        return time.monotonic()
