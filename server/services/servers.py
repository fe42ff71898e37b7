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
"""A server without a heartbeat for so long is gone. If it comes back, its sessions begin anew."""


class Servers:
    """This server's place among the servers of one database."""

    def __init__(self, database: Database, clock: Clock, name: str) -> None:
        self._database = database
        self._clock = clock
        self._name = name
        self._next_ms = 0
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

        def beat() -> tuple[bool, list[int]]:
            is_known = servers.beat(self.id, now_ms)
            gone = servers.end_silent(now_ms - SILENT_MS)
            if gone:
                servers.end_lost_sessions()
            return is_known, gone

        is_known, gone = await self._database.run(beat)
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
