"""Judges the reports of providers' machines: whenever the facts change, and once an hour.

Reports come with every heartbeat. The facts of the last judgement stay in memory, so that a heartbeat
with the same facts needs no query; only a changed verdict is written.
"""

from __future__ import annotations

import logging
import statistics

from server.clock import Clock, ms
from server.domain.errors import DomainError
from server.domain.gpus import GpuReport
from server.domain.honesty import Facts, History, Judgement, Verdict, VerdictReason, facts, judge
from server.domain.jobs import Job, JobState
from server.domain.leases import LIVE_SECONDS
from server.services.fleet import Fleet, Judged
from server.store import honesty, jobs, providers
from server.store.database import Database
from server.store.providers import ProviderRow

log = logging.getLogger(__name__)

# The least time between two judgements while the facts change: no machine can keep the store busy.
LEAST_MS = 60_000
AGAIN_MS = 3_600_000
# Another provider shares a UUID, and may leave soon.
AGAIN_SHARED_MS = 600_000
# How many of the newest jobs are read, and how many of these must have a speed.
RECORD_SIZE, LEAST_SPEEDS = 20, 5
# The shortest answer from which a speed is computed.
LEAST_TOKENS = 8


class Honesty:
    """Judges the providers that report to this server."""

    def __init__(self, database: Database, fleet: Fleet, clock: Clock) -> None:
        self._database = database
        self._fleet = fleet
        self._clock = clock

    async def reported(self, provider_id: int, report: GpuReport) -> None:
        """Judges a heartbeat's report, if that is due. Never raises: after a failure, the next is judged."""
        current, now_ms = facts(report), ms(self._clock)
        before = self._fleet.judged.get(provider_id)
        if current is None or not _is_due(before, current, now_ms):
            return
        entry = Judged(current, now_ms, now_ms + AGAIN_MS, before is not None and before.is_suspect)
        self._fleet.judged[provider_id] = entry
        try:
            judgement, others = await self._judge(provider_id, current, now_ms)
        except DomainError as error:
            log.warning("a report was not judged provider_id=%d reason=%s", provider_id, error.reason)
            if self._fleet.judged.get(provider_id) is entry:
                del self._fleet.judged[provider_id]
            return
        shared = VerdictReason.UUID_SHARED in judgement.reasons
        again_ms = now_ms + (AGAIN_SHARED_MS if shared else AGAIN_MS)
        entry.again_ms = min(again_ms, judgement.until_ms or again_ms)
        self._fleet.suspect(provider_id, judgement.verdict is Verdict.SUSPECT)
        for other in others:
            self._fleet.suspect(other, True)
            if other_entry := self._fleet.judged.get(other):
                other_entry.again_ms = min(other_entry.again_ms, now_ms + AGAIN_SHARED_MS)

    async def _judge(self, provider_id: int, current: Facts, now_ms: int) -> tuple[Judgement, list[int]]:
        """The verdict, and the other live providers that report the same GPUs; stored if it is new."""

        def look() -> tuple[bool, Judgement, list[int]]:
            row, judgement, others, _ = _read(provider_id, current, now_ms)
            known = honesty.uuids(provider_id)
            is_new = not _is_stored(row, judgement) or (
                bool(current.uuids) and known != frozenset(current.uuids)
            )
            return (
                is_new or any(not _is_noted(other) for other in providers.by_ids(others)),
                judgement,
                others,
            )

        is_new, judgement, others = await self._database.read(look)
        if not is_new:
            return judgement, others
        judgement, others = await self._database.run(lambda: _record(provider_id, current, now_ms))
        log.info(
            "judged provider_id=%d verdict=%s reasons=%s",
            provider_id,
            judgement.verdict,
            ",".join(judgement.reasons) or "none",
        )
        return judgement, others


def _is_due(before: Judged | None, current: Facts, now_ms: int) -> bool:
    if before is None:
        return True
    if before.facts != current:
        return now_ms >= before.judged_ms + LEAST_MS
    return now_ms >= before.again_ms


def _read(
    provider_id: int, current: Facts, now_ms: int
) -> tuple[ProviderRow, Judgement, list[int], int | None]:
    """The row, the verdict, the providers that share a UUID, and when the set of GPUs changed.

    Inside a transaction.
    """
    row = providers.get(provider_id)
    assert row is not None, "a key belongs to a provider that does not exist"
    known, changed_ms = honesty.uuids(provider_id), row.gpus_changed_ms
    if current.uuids and known and known != frozenset(current.uuids):
        changed_ms = now_ms
    others = honesty.sharing(provider_id, current.uuids, now_ms - int(LIVE_SECONDS * 1000))
    history = History(
        row.claimed_gpu,
        changed_ms,
        bool(others),
        _speed(jobs.newest_of_provider(provider_id, RECORD_SIZE)) if current.gpus else None,
    )
    return row, judge(current, history, now_ms), others, changed_ms


def _record(provider_id: int, current: Facts, now_ms: int) -> tuple[Judgement, list[int]]:
    """Stores the verdict, the GPUs, and a verdict on each provider that shares them. Inside a transaction."""
    row, judgement, others, changed_ms = _read(provider_id, current, now_ms)
    if current.uuids and honesty.uuids(provider_id) != frozenset(current.uuids):
        honesty.replace_uuids(provider_id, current.uuids, changed_ms)
    if not _is_stored(row, judgement):
        honesty.set_verdict(provider_id, judgement.verdict, judgement.reasons, now_ms)
    for other in providers.by_ids(others):
        if not _is_noted(other):
            reasons = [*other.verdict_reasons, VerdictReason.UUID_SHARED]
            honesty.set_verdict(other.id, Verdict.SUSPECT, reasons, now_ms)
    return judgement, others


def _is_stored(row: ProviderRow, judgement: Judgement) -> bool:
    return (row.verdict, row.verdict_reasons) == (judgement.verdict, judgement.reasons)


def _is_noted(row: ProviderRow) -> bool:
    return VerdictReason.UUID_SHARED in row.verdict_reasons


def _speed(newest: list[Job]) -> float | None:
    """The median of tokens per billed second; None if too few jobs have a speed.

    Billed time is never longer than the server's clock measured.
    """
    speeds = []
    for job in newest:
        tokens = int((job.usage or {}).get("completion_tokens", 0))
        if job.state is JobState.COMPLETED and tokens >= LEAST_TOKENS and job.bill and job.bill.billed_ms:
            speeds.append(tokens * 1000 / job.bill.billed_ms)
    return statistics.median(speeds) if len(speeds) >= LEAST_SPEEDS else None
