"""Servers of one database: who is silent is ended, and nobody else, whatever the clocks say."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from server.services.servers import BEAT_MS, SILENT_MS, Servers
from server.store import servers
from server.store.database import Database
from tests.support import databases
from tests.support.databases import Postgres
from tests.support.manual_clock import ManualClock

BEAT_SECONDS = BEAT_MS / 1000
SILENT_BEATS = SILENT_MS // BEAT_MS


class Site:
    """Servers whose clocks differ, and go on together."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.all: dict[str, tuple[Servers, ManualClock]] = {}

    async def start(self, name: str, ahead_seconds: float = 0.0) -> Servers:
        clock = ManualClock()
        clock.advance(1000 + ahead_seconds)
        self.all[name] = (Servers(self.database, clock, name), clock)
        await self.all[name][0].begin()
        return self.all[name][0]

    async def go_on(self, beats: int, *, without: str = "") -> None:
        for _ in range(beats):
            for name, (one, clock) in self.all.items():
                clock.advance(BEAT_SECONDS)
                if name != without:
                    await one.tick()

    async def ids(self) -> list[int]:
        return await self.database.read(servers.all_ids)


@pytest.fixture
async def site(postgres: Postgres) -> AsyncIterator[Site]:
    async with databases.opened(postgres.empty_database()) as database:
        yield Site(database)


@pytest.mark.parametrize("ahead_seconds", [-60.0, 60.0, 0.0])
async def test_server_with_another_time_than_the_others_is_not_silent(
    site: Site, ahead_seconds: float
) -> None:
    """As after a failover to a database whose clock differs, which only a new server takes at once."""
    old = await site.start("old")
    new = await site.start("new", ahead_seconds)
    known = [old.id, new.id]
    await site.go_on(3 * SILENT_BEATS)
    assert (await site.ids(), [old.id, new.id]) == (known, known)
    await site.go_on(SILENT_BEATS + 2, without="new")
    assert await site.ids() == [old.id]
    await site.go_on(1)
    assert (await site.ids() == [old.id, new.id], new.id != known[1]) == (True, True), "it begins anew"


async def test_server_that_could_not_look_for_a_while_ends_no_other(site: Site) -> None:
    """As after an outage of the database, in which nobody could write a heartbeat."""
    one, other = await site.start("one"), await site.start("other")
    known = [one.id, other.id]
    await site.go_on(2)
    for _, clock in site.all.values():
        clock.advance(10 * SILENT_MS / 1000)
    await site.go_on(2 * SILENT_BEATS)
    assert (await site.ids(), [one.id, other.id]) == (known, known)
