"""Watches the marketplace for what an operator should know of at once, and lists it.

A reading writes nothing unless it changes what is stored of its condition. What changes is decided again in
the transaction that locks it, so that only one of two servers reports it.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

from server.clock import Clock, ms
from server.domain import incidents as rules
from server.domain.incidents import Condition, Incident, Reading, Room, Thresholds
from server.domain.leases import LIVE_SECONDS
from server.domain.reads import Purpose, reading_for
from server.domain.statements import DAY_MS
from server.domain.webhooks import OPERATORS
from server.services import outbox
from server.services.each import each
from server.services.fleet import Fleet
from server.services.operators.proofs import Proofs
from server.services.pages import Page, read_page
from server.store import incidents, webhooks
from server.store.database import Database

log = logging.getLogger(__name__)

PROOF_SECONDS = 300.0
"""How old the proof may be: it is the dearest of the readings."""
DISK_SECONDS = 5.0
"""A disk that does not answer within this is not read."""
BATCH = 500
Usage = Callable[[Path], "tuple[int, int, int]"]
"""Total, used and free bytes of the disk of a folder."""


class Incidents:
    """The conditions, as one server reads them, and the incidents, as operators read them."""

    def __init__(
        self,
        database: Database,
        fleet: Fleet,
        proofs: Proofs,
        clock: Clock,
        thresholds: Thresholds,
        places: Mapping[str, Path],
        usage: Usage = shutil.disk_usage,
    ) -> None:
        self._database = database
        self._fleet = fleet
        self._proofs = proofs
        self._clock = clock
        self._thresholds = thresholds
        self._places = places
        self._usage = usage
        self._disk: asyncio.Task[list[Room]] | None = None
        self.rooms: tuple[Room, ...] = ()
        """The disks as they were read last."""

    async def tick(self) -> None:
        """Reads every condition, stores and reports what changed. A reading that fails stops no other."""
        known, webhook = await self._database.read(lambda: (incidents.standing(), webhooks.get(OPERATORS)))
        since_ms = webhook.created_ms if webhook is not None else None
        readers: tuple[Callable[[], Awaitable[list[Reading]]], ...] = (
            self._read_queue,
            self._read_payouts,
            self._read_proof,
            self._read_disks,
            partial(self._read_sessions, known.get(Condition.SESSIONS_LOST)),
        )

        async def watch(read: Callable[[], Awaitable[list[Reading]]]) -> None:
            for reading in await read():
                await self._follow(known.get(reading.condition), reading, since_ms)

        await each("a condition of incidents", readers, watch)

    async def page(self, before_id: int | None, limit: int) -> Page[Incident]:
        """One page of the incidents that have begun, newest first."""
        return await self._database.read(lambda: read_page(incidents.page, before_id, limit=limit))

    async def clean(self) -> None:
        """Deletes incidents that ended too long ago, a batch at a time."""
        before_ms = ms(self._clock) - rules.KEEP_DAYS * DAY_MS
        if await self._database.read(lambda: incidents.any_ended_before(before_ms)):
            await self._database.run(lambda: incidents.forget_ended_before(before_ms, BATCH))

    async def _follow(self, known: Incident | None, reading: Reading, since_ms: int | None) -> None:
        """Stores what a reading changes, if it changes anything."""
        now_ms = ms(self._clock)
        if known is None:
            if (found := rules.seen(reading, now_ms)) is None:
                return
        elif rules.step(known, reading, now_ms, webhook_since_ms=since_ms).incident == known:
            return
        else:
            found = None
        before, after = await self._database.run(partial(_change, found, reading, now_ms))
        if after is None or after.began_ms is None:
            return
        if after.ended_ms is not None:
            log.info("an incident ended id=%d condition=%s", after.id, after.condition)
        elif before is None or before.began_ms is None:
            log.error("an incident began id=%d: %s", after.id, rules.summary(after))

    async def _read_queue(self) -> list[Reading]:
        now_ms = ms(self._clock)
        waited_ms = now_ms - self._thresholds.unserved_minutes * 60_000
        live_ms = now_ms - int(LIVE_SECONDS * 1000)
        with reading_for(Purpose("incidents", may_grow=True)):
            found = await self._database.read(lambda: incidents.unserved_models(waited_ms, live_ms))
        return [
            rules.unserved_models(
                [{"model": model, "jobs": jobs, "oldest_ms": oldest} for model, jobs, oldest in found]
            )
        ]

    async def _read_payouts(self) -> list[Reading]:
        since_ms = ms(self._clock) - self._thresholds.payout_hours * 3_600_000
        return [
            rules.waiting_payouts(*await self._database.read(lambda: incidents.waiting_payouts(since_ms)))
        ]

    async def _read_proof(self) -> list[Reading]:
        with reading_for(Purpose("incidents", may_grow=True)):
            proof = await self._proofs.recent(PROOF_SECONDS)
        return [rules.proof(len(proof.discrepancies))]

    async def _read_disks(self) -> list[Reading]:
        """Reads the disks in a thread, and only one at a time: one that hangs must not take more of them."""
        if self._disk is None:
            self._disk = asyncio.create_task(asyncio.to_thread(self._rooms))
        try:
            rooms = await asyncio.wait_for(asyncio.shield(self._disk), DISK_SECONDS)
        finally:
            if self._disk.done():
                self._disk = None
        self.rooms = tuple(rooms)
        return rules.disks(rooms, self._thresholds)

    def _rooms(self) -> list[Room]:
        rooms = []
        for place, path in self._places.items():
            while not path.exists() and path != path.parent:
                path = path.parent  # the folder is created with its first file
            total, _, free = self._usage(path)
            rooms.append(Room(place, free, total))
        return rooms

    async def _read_sessions(self, known: Incident | None) -> list[Reading]:
        now_ms = ms(self._clock)
        since_ms = now_ms - rules.LOST_WITHIN_SECONDS * 1000
        live_ms = now_ms - int(LIVE_SECONDS * 1000)
        lost = await self._database.read(lambda: incidents.away_since(since_ms, live_ms))
        return [rules.lost_sessions(len(self._fleet.all()), lost, known, self._thresholds, now_ms)]


def _change(seen: Incident | None, reading: Reading, now_ms: int) -> tuple[Incident | None, Incident | None]:
    """Stores what a reading changes and adds its event; returns what was and is stored. In a transaction."""
    webhook = webhooks.lock(OPERATORS)
    since_ms = webhook.created_ms if webhook is not None else None
    known = incidents.lock(reading.condition)
    if known is None and seen is not None:
        incidents.insert(seen)
        known = incidents.lock(reading.condition)
    if known is None:
        return None, None
    after = rules.step(known, reading, now_ms, webhook_since_ms=since_ms)
    if after.incident is None:
        incidents.forget(known.id)
        return known, None
    incidents.store(after.incident)
    if after.event is not None:
        outbox.incident_changed(after.incident, after.event, now_ms)
    return known, after.incident
