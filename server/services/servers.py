"""This server among those of the market: its row with a heartbeat, and the end of those that fell silent.

The sessions of a server that is gone end with it, so that the market shows their daemons as away until they
are back at another server. Their jobs go on meanwhile: leases end by the silence of a daemon only.
"""

from __future__ import annotations

import logging

from server.clock import Clock, ms
from server.store import servers
from server.store.database import Database
from server.version import CURRENT

log = logging.getLogger(__name__)

BEAT_MS = 2_000
SILENT_MS = 12_000
"""A server without a new heartbeat for so long is gone. If it comes back, its sessions begin anew.

Whoever looks measures it by its own clock, from when it saw the last one. Clocks of two servers may differ:
after a failover to a database with another time, a new server takes it at once, others by and by.
"""
LOOKS_ANEW_MS = SILENT_MS // 2
"""Who could not look for so long, as in an outage of the database, has not seen anybody be silent."""


class Servers:
    """This server's place among the servers of one database."""

    def __init__(self, database: Database, clock: Clock, name: str) -> None:
        self._database = database
        self._clock = clock
        self._name = name
        self._next_ms = 0
        self._looked_ms = 0
        self._seen: dict[int, tuple[int, int]] = {}
        """The last heartbeat of each server, and when it was first seen here."""
        self.id = 0
        """Of this server, since ``begin``."""
        self.is_first = True
        """Whether it is the oldest: then it does the duties that one server does for all."""
        self.is_leaving = False
        """Whether it stops: ``end`` records the end of all sessions in one write, instead of one for each."""
        self.are_several = False
        """Whether there were others when it looked last."""

    async def begin(self) -> None:
        """Adds this server. One that starts on a SQLite file is alone, and ends what an earlier one left."""

        def begin() -> int:
            if self._database.is_sqlite:
                servers.end_all()
            return servers.begin(self._name, CURRENT, ms(self._clock))

        self.id = await self._database.run(begin)
        await self._look()

    async def end(self) -> None:
        """Removes this server, which has no more sessions."""
        await self._database.run(lambda: servers.end(self.id))

    async def tick(self) -> None:
        """Writes the heartbeat, and ends servers that are silent. One that was ended itself begins anew."""
        if self._database.is_sqlite or ms(self._clock) < self._next_ms:
            return
        now_ms = ms(self._clock)
        self._next_ms = now_ms + BEAT_MS

        before = self._seen if now_ms - self._looked_ms < LOOKS_ANEW_MS else {}

        def beat() -> tuple[bool, dict[int, tuple[int, int]], list[int]]:
            is_known = servers.beat(self.id, now_ms)
            found = servers.heartbeats()
            seen = {each: _seen(before.get(each), at_ms, now_ms) for each, at_ms in found.items()}
            gone = [each for each, (_, since_ms) in seen.items() if now_ms - since_ms > SILENT_MS]
            for each in gone:
                servers.end(each)
            if gone:
                servers.end_lost_sessions()
            return is_known, seen, gone

        is_known, self._seen, gone = await self._database.run(beat)
        self._looked_ms = now_ms
        for server_id in gone:
            log.warning("a server fell silent, its sessions ended server_id=%d", server_id)
        if not is_known:
            log.error("this server was silent for %d s or more: its sessions begin anew", SILENT_MS // 1000)
            self.id = await self._database.run(lambda: servers.begin(self._name, CURRENT, ms(self._clock)))
        await self._look()

    async def _look(self) -> None:
        ids = await self._database.read(servers.all_ids)
        self.is_first = not ids or min(ids) == self.id
        self.are_several = len(ids) > 1


def _seen(before: tuple[int, int] | None, at_ms: int, now_ms: int) -> tuple[int, int]:
    """A heartbeat, and when it was first seen."""
    return before if before is not None and before[0] == at_ms else (at_ms, now_ms)
