"""Owns the port to time: everything in the daemon that measures receives one.

Durations only; the daemon needs no time of day (jobs are metered with a
monotonic clock, which no adjustment of the system's clock can bend). Time that
the machine slept through counts: a lease runs out meanwhile.
"""

import time
from typing import Protocol


class Clock(Protocol):
    """Measures how much time has passed."""

    def monotonic(self) -> float:
        """Seconds since some fixed point; never goes back."""
        ...


class SystemClock:
    """The machine's own monotonic clock; it goes on while the machine sleeps, where the system has one."""

    _CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def monotonic(self) -> float:
        """Seconds since some fixed point; never goes back."""
        return time.clock_gettime(self._CLOCK)
