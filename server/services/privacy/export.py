"""Exports all of a renter's own data, in pages that can each be read on their own.

The sections follow one another, and a page holds rows of as many sections as fit. A position is written as
``section:where``, and each section can continue from its ``where``. No page exceeds ``PAGE_SIZE`` unless a
single row does, so that a renter with 100,000 jobs costs many small reads and never a large one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from server.domain import ledger as rules
from server.domain.batches import Batch
from server.domain.disputes import Dispute
from server.domain.errors import no_page
from server.domain.inputs import Input
from server.domain.jobs import Job
from server.domain.statements import Line
from server.services.keys import RENTER
from server.services.renters import existing
from server.store import batches, disputes, inputs, jobs, keys, ledger, statements, webhooks
from server.store.database import Database
from server.store.keys import KeyRow
from server.store.privacy import export
from server.store.privacy.export import AskedJob, WrittenAttempt
from server.store.renters import RenterRow
from server.store.webhooks import Delivery, Webhook

PAGE_SIZE = 2 * 1024 * 1024
"""The most characters of requests and bytes of outputs and logs on a page."""


@dataclass(slots=True)
class ExportPage:
    """One page. Money in micros."""

    renter: RenterRow
    balance_micros: int
    held_micros: int
    webhook: Webhook | None
    keys: list[KeyRow] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    jobs: list[AskedJob] = field(default_factory=list)
    attempts: list[WrittenAttempt] = field(default_factory=list)
    ledger: list[Line] = field(default_factory=list)
    disputes: list[Dispute] = field(default_factory=list)
    inputs: list[Input] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    next_page: str | None = None


class Room:
    """The space left on a page. The first row always fits, or the export would never continue."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._size = PAGE_SIZE
        self._is_empty = True

    def takes(self, size: int = 0) -> bool:
        """Whether a row of this size fits; if so, its space is taken."""
        if not self._is_empty and (self.rows < 1 or size > self._size):
            return False
        self.rows, self._size, self._is_empty = self.rows - 1, self._size - size, False
        return True


# Reads the rows of a section that fit, from a position; returns them and the next position, None at the end.
Section: TypeAlias = Callable[[int, str, Room], tuple[list[Any], str | None]]


class Export:
    """The use case of exporting a renter's own data."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, renter_id: int, place: str, rows: int) -> ExportPage:
        """One page, from the ``next_page`` of the page before. Raises PAGE_NOT_FOUND for any other place."""
        return await self._database.read(lambda: _page(renter_id, place, Room(rows)))


def _page(renter_id: int, place: str, room: Room) -> ExportPage:
    page = ExportPage(
        existing(renter_id),
        ledger.balance(rules.renter(renter_id)),
        ledger.balance(rules.held(renter_id)),
        webhooks.get(renter_id),
    )
    names = list(_SECTIONS)
    name, _, where = (place or f"{names[0]}:").partition(":")
    if name not in _SECTIONS:
        raise no_page("page")
    for section in names[names.index(name) :]:
        if room.rows < 1:
            page.next_page = f"{section}:"
            break
        rows, after = _SECTIONS[section](renter_id, where, room)
        getattr(page, section).extend(rows)
        if after is not None:
            page.next_page = f"{section}:{after}"
            break
        where = ""
    return page


def _numbered(query: Callable[[int, int | None, int], list[Any]]) -> Section:
    """A section of small rows that are read by id, newest first."""

    def read(renter_id: int, where: str, room: Room) -> tuple[list[Any], str | None]:
        limit = room.rows
        found = query(renter_id, _number(where) if where else None, limit + 1)
        rows = found[:limit]
        for _ in rows:
            room.takes()
        return rows, str(rows[-1].id) if len(found) > limit else None

    return read


def _jobs(renter_id: int, where: str, room: Room) -> tuple[list[AskedJob], str | None]:
    """Reads the sizes first, because prompts may be long."""
    before = _own_job(renter_id, where) if where else None
    sizes = export.job_sizes(renter_id, before, room.rows + 1)
    fitting = 0
    while fitting < len(sizes) and room.takes(sizes[fitting]):
        fitting += 1
    rows = export.asked_jobs(renter_id, before, fitting) if fitting else []
    if fitting == len(sizes):
        return rows, None
    return rows, rows[-1].job.job_id if rows else where


def _attempts(renter_id: int, where: str, room: Room) -> tuple[list[WrittenAttempt], str | None]:
    job_id, _, epoch = where.partition(":")
    job = _own_job(renter_id, job_id) if where else None
    found = export.leases_after(renter_id, job, _number(epoch) if where else 0, room.rows + 1)
    rows: list[WrittenAttempt] = []
    for lease in found:
        if not room.takes(export.written_bytes(lease)):
            return rows, f"{rows[-1].lease.job_id}:{rows[-1].lease.lease_epoch}" if rows else where
        rows.append(export.with_what_it_wrote(lease))
    return rows, None


_SECTIONS: dict[str, Section] = {
    "keys": _numbered(lambda renter_id, before, limit: keys.of_owner(RENTER, renter_id, before, limit)),
    "deliveries": _numbered(webhooks.deliveries),
    "jobs": _jobs,
    "attempts": _attempts,
    "ledger": _numbered(statements.lines),
    "disputes": _numbered(disputes.of_renter),
    "inputs": _numbered(inputs.every),
    "batches": _numbered(batches.of_renter),
}


def _own_job(renter_id: int, job_id: str) -> Job:
    job = jobs.get_of_renter(job_id, renter_id)
    if job is None:
        raise no_page("page")
    return job


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise no_page("page")
    return int(text)
