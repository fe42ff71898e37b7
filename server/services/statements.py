"""A renter's statement and its spending."""

from __future__ import annotations

from server.clock import Clock, ms
from server.domain.statements import Line, Spending
from server.services.pages import Page, read_page
from server.store import statement_lines
from server.store.database import Database


class Statements:
    """What happened to a renter's money."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def lines(self, renter_id: int, before_id: int | None, limit: int) -> Page[Line]:
        """One page of the wallet's lines, newest first."""
        return await self._database.read(
            lambda: read_page(statement_lines.lines, renter_id, before_id, limit=limit)
        )

    async def spending(self, renter_id: int, days: int) -> dict[int, Spending]:
        """What was spent on each of the last days of UTC, by day since 1970, newest first."""
        today = ms(self._clock) // statement_lines.DAY_MS
        found = {day: Spending() for day in range(today, today - days, -1)}
        rows = await self._database.read(lambda: statement_lines.spending(renter_id, today - days + 1))
        for day, kind, jobs, amount_halala in rows:
            if day in found:  # a replica's clock may be a moment ahead of this one's
                found[day].add(kind, jobs, amount_halala)
        return found
