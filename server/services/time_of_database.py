"""The time that all servers of a market share: that of their PostgreSQL, not of their machines."""

from __future__ import annotations

import logging
import time

from server.clock import SystemClock
from server.store.database import Database

log = logging.getLogger(__name__)

CHECK_SECONDS = 15.0
# By how much one check moves the clock: a failover to a database with another time must lose no lease.
AT_MOST_SECONDS = 0.5
REPORTED_SECONDS = 2.0


class TimeOfDatabase:
    """Lets this server's clock follow the database's, and reports a machine whose clock is wrong."""

    def __init__(self, database: Database, clock: SystemClock) -> None:
        self._database = database
        self._clock = clock
        self._next_check = 0.0
        self._is_reported = False

    async def begin(self) -> None:
        """Takes the database's time, before this server does anything."""
        await self._follow(None)

    async def tick(self) -> None:
        """Corrects the clock from time to time."""
        if time.monotonic() >= self._next_check:
            await self._follow(AT_MOST_SECONDS)

    async def _follow(self, at_most: float | None) -> None:
        self._next_check = time.monotonic() + CHECK_SECONDS
        offset, error = await self._database.clock_offset(self._clock.now)
        if abs(offset) > error:
            self._clock.follow(offset, at_most=at_most)
        wrong = self._clock.ahead_of_system() + (offset if at_most is not None else 0.0)
        if abs(wrong) >= REPORTED_SECONDS and not self._is_reported:
            log.warning(
                "this machine's clock is %.1f s %s the database's, which is used; set it by NTP",
                abs(wrong),
                "behind" if wrong > 0 else "ahead of",
            )
        self._is_reported = abs(wrong) >= REPORTED_SECONDS
