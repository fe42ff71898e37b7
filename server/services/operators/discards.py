"""What daemons report and the server does not know, such as after a restore of an older database.

It is noted in memory and stored once a second, so that nothing that a daemon repeats costs a write of its
own. A lease that merely ended is on record: a late message about it is ordinary and leaves no record.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import astuple, dataclass

from server.clock import Clock, ms
from server.domain.discards import KEEP_DAYS, MAX_DETAIL, MAX_PENDING, DiscardKind, Unknown
from server.domain.leases import LeaseRef
from server.domain.statements import DAY_MS
from server.services.pages import Page, read_page
from server.store import jobs, leases
from server.store.database import Database
from server.store.operators import discards
from server.store.operators.discards import DiscardRow

log = logging.getLogger(__name__)
KEEP_MS = KEEP_DAYS * DAY_MS
BATCH = 500
PROVIDER_KEY_PREFIX = "dcp-provider-"


@dataclass(slots=True)
class _Noted:
    ref: LeaseRef | None
    """The lease, if it may be on record after all."""
    detail: str
    times: int = 0


class Discards:
    """The records, as sessions and calls add to them and operators read them."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._noted: dict[Unknown, _Noted] = {}
        self._dropped = 0
        self.counts: Counter[DiscardKind] = Counter()
        """What was reported since the start, by kind."""

    def note_lease(self, provider_id: int, ref: LeaseRef) -> None:
        """A daemon reported a lease that its session does not hold: a record, unless it is stored."""
        about = Unknown(DiscardKind.LEASE, provider_id, ref.job_id, ref.lease_epoch)
        self._note(about, _Noted(ref, ""))

    def note_run(self, provider_id: int, ref: LeaseRef, detail: str) -> None:
        """A run of a known lease does not continue what is stored of it."""
        about = Unknown(DiscardKind.RUN, provider_id, ref.job_id, ref.lease_epoch)
        self._note(about, _Noted(None, detail[:MAX_DETAIL]))

    def note_key(self, credential: str, address: str) -> None:
        """A credential of no account was presented. Only a provider's key is noted, by its end."""
        if credential.startswith(PROVIDER_KEY_PREFIX) and credential.isascii() and credential.isprintable():
            about = Unknown(DiscardKind.KEY, key_last4=credential[-4:], address=address[:100])
            self._note(about, _Noted(None, "no account has this key"))

    def _note(self, about: Unknown, noted: _Noted) -> None:
        self.counts[about.kind] += 1
        if about not in self._noted and len(self._noted) >= MAX_PENDING:
            self._dropped += 1
            return
        self._noted.setdefault(about, noted).times += 1

    async def tick(self) -> None:
        """Stores what was noted since the last tick. If it cannot be stored, the next tick tries again."""
        if not self._noted:
            return
        noted, now_ms = dict(self._noted), ms(self._clock)
        counted = {about: one.times for about, one in noted.items()}
        details = await self._database.read(lambda: _details(noted))
        if details:
            await self._database.run(lambda: _store(details, counted, now_ms))
        for about, times in counted.items():
            noted[about].times -= times
            if not noted[about].times:
                del self._noted[about]
        if self._dropped:
            log.warning("left out records of what the server does not know count=%d", self._dropped)
            self._dropped = 0

    async def clean(self) -> None:
        """Deletes records that are too old, a batch at a time."""
        before_ms = ms(self._clock) - KEEP_MS
        if await self._database.read(lambda: discards.any_before(before_ms)):
            await self._database.run(lambda: discards.forget_before(before_ms, BATCH))

    async def page(self, provider_id: int | None, before_id: int | None, limit: int) -> Page[DiscardRow]:
        """One page, newest first; optionally of one provider."""
        return await self._database.read(
            lambda: read_page(discards.page, provider_id, before_id, limit=limit)
        )


def _details(noted: dict[Unknown, _Noted]) -> dict[Unknown, str]:
    """What is really unknown, each with what differs from the records."""
    found = {about: one.detail or _difference(about, one.ref) for about, one in noted.items()}
    return {about: detail for about, detail in found.items() if detail}


def _difference(about: Unknown, ref: LeaseRef | None) -> str:
    """How a reported lease differs from the records; empty if it is on record."""
    lease = leases.get(about.job_id, about.lease_epoch)
    if lease is None:
        job = jobs.get(about.job_id)
        return "no job with this id is on record" if job is None else "the job has no lease with this number"
    if ref is not None and lease.matches(ref) and lease.provider_id == about.provider_id:
        return ""
    return "the job's lease with this number is another, of a later offer or another provider"


def _store(details: dict[Unknown, str], counted: dict[Unknown, int], now_ms: int) -> None:
    # Sorted, so that two servers cannot deadlock.
    for about in sorted(details, key=astuple):
        discards.record(about, details[about], counted[about], now_ms)
