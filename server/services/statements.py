"""A renter's statement and its spending, and a provider's earnings by day."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from server.clock import Clock, ms
from server.domain.ledger import ProviderMoney
from server.domain.statements import JobMoney, Line, Period, day_of
from server.domain.usage import Position, Selection, UsageRow
from server.services.pages import Page, read_page
from server.store import day_sums, ledger, statements, usage
from server.store.database import Database
from server.store.statements import DayRow


class Statements:
    """The use cases of statements, for renters and providers."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def lines(self, renter_id: int, before_id: int | None, period: Period, limit: int) -> Page[Line]:
        """One page of the wallet's lines of a period, newest first."""
        return await self._database.read(
            lambda: read_page(partial(statements.lines, period=period), renter_id, before_id, limit=limit)
        )

    async def file(
        self,
        renter_id: int,
        before_id: int | None,
        period: Period,
        limit: int,
        write: Callable[[list[Line]], str],
    ) -> str:
        """The wallet's newest lines as ``write`` writes them: in the reading thread, since they are many."""
        return await self._database.read(lambda: write(statements.lines(renter_id, before_id, limit, period)))

    async def spending(self, renter_id: int, days: int) -> dict[int, JobMoney]:
        """The spending of each of the last ``days`` (UTC), by day since 1970, newest first."""
        return await self._by_day(lambda since: statements.spending(renter_id, since), days)

    async def earnings(self, provider_id: int, days: int) -> tuple[dict[int, JobMoney], ProviderMoney]:
        """The earnings of each of the last ``days`` (UTC), newest first, and the provider's money now."""
        by_day = await self._by_day(lambda since: statements.earnings(provider_id, since), days)
        return by_day, await self._database.read(lambda: ledger.of_provider(provider_id))

    def today(self) -> int:
        """The present day (UTC), counted from 1970."""
        return day_of(ms(self._clock))

    async def usage(
        self, renter_id: int, selection: Selection, after: Position | None, limit: int
    ) -> tuple[list[UsageRow], Position | None]:
        """One page of a renter's usage, and the position after which the next page begins."""
        found = await self._database.read(lambda: usage.rows(renter_id, selection, after, limit + 1))
        return found[:limit], found[limit - 1].position if len(found) > limit else None

    async def usage_file(
        self, renter_id: int, selection: Selection, limit: int, write: Callable[[list[UsageRow]], str]
    ) -> str:
        """A renter's usage as ``write`` writes it: in the reading thread, since the rows are many."""
        return await self._database.read(lambda: write(usage.rows(renter_id, selection, None, limit)))

    async def tick(self) -> None:
        """Adds up the days before yesterday, each once: no transaction of these days is still open."""
        yesterday = self.today() - 1
        for source in day_sums.SOURCES:
            while await self._database.read(partial(day_sums.first_uncounted, source)) != yesterday:
                # Day by day, so that other writes need not wait for the history of a large market.
                await self._database.run(partial(day_sums.add_next_day, source, yesterday))

    async def _by_day(self, rows: Callable[[int], list[DayRow]], days: int) -> dict[int, JobMoney]:
        today = self.today()
        found = {day: JobMoney() for day in range(today, today - days, -1)}
        for day, kind, jobs, amount_micros in await self._database.read(lambda: rows(today - days + 1)):
            if day in found:  # another server's clock may be slightly ahead of this one's
                found[day].add(kind, jobs, amount_micros)
        return found
