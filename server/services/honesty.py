"""Judges the reports of providers' machines, in batches: whenever the facts change, and once an hour.

Reports come with every heartbeat. The facts of the last judgement stay in memory, so that a heartbeat
with the same facts needs no query; only a changed verdict is written. A Hello does not wait for its
judgement: the duty that calls ``tick`` follows within a second.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from server.clock import Clock, ms
from server.domain.errors import DomainError
from server.domain.gpu_proofs import proves
from server.domain.gpus import GpuReport
from server.domain.honesty import Facts, History, Judgement, Verdict, VerdictReason, facts, judge
from server.domain.jobs import Job, JobState
from server.domain.leases import LIVE_SECONDS
from server.services.each import together
from server.services.fleet import Fleet, Judged
from server.store import canaries, gpu_proofs, honesty, jobs, providers
from server.store.database import Database, PartError
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
# Providers that one transaction judges.
BATCH = 100


@dataclass(frozen=True, slots=True)
class Found:
    """A judgement, and the other live providers that report the same GPUs."""

    judgement: Judgement
    others: list[int]
    is_new: bool
    """Whether there is something to store."""


class Honesty:
    """Judges the providers that report to this server."""

    def __init__(self, database: Database, fleet: Fleet, clock: Clock, checks_are_on: bool = False) -> None:
        """``checks_are_on``: the market checks the work of providers, too."""
        self._database = database
        self._checks_are_on = checks_are_on
        self._fleet = fleet
        self._clock = clock
        self._waiting: dict[int, Facts] = {}
        self._refused: dict[int, PartError] = {}
        """The providers whose last judgement could not be stored."""

    def reported(self, provider_id: int, report: GpuReport) -> None:
        """Notes a heartbeat's report, to be judged by the next ``tick`` if that is due.

        Until then the provider counts as suspect: it gets no job before another that can run it, as today's
        verdict may be worse than the last one.
        """
        current = facts(report)
        if current is not None and _is_due(self._fleet.judged.get(provider_id), current, ms(self._clock)):
            self._waiting[provider_id] = current
            self._fleet.suspect(provider_id, True)

    async def tick(self) -> None:
        """Judges the reports that wait; those that cannot be judged now keep waiting."""
        waiting = list(self._waiting)
        for start in range(0, len(waiting), BATCH):
            now_ms = ms(self._clock)
            batch = {
                provider_id: self._waiting.pop(provider_id) for provider_id in waiting[start : start + BATCH]
            }
            for provider_id, current in batch.items():
                self._fleet.judged[provider_id] = Judged(current, now_ms, now_ms + AGAIN_MS, True)
            try:
                found = await self._judge(batch, now_ms)
            except Exception:
                self._waiting = batch | self._waiting
                raise
            for provider_id in batch:
                self._note(provider_id, found.get(provider_id), now_ms)
            for findings in found.values():  # last, as those may be of the same batch
                self._note_shared(findings.others, now_ms)

    async def _judge(self, batch: dict[int, Facts], now_ms: int) -> dict[int, Found]:
        """The findings on each provider, stored where they are new; without those that failed."""

        def look() -> dict[int, Found]:
            return {key: _look(key, facts, now_ms, self._checks_are_on) for key, facts in batch.items()}

        def record(provider_ids: Sequence[int]) -> None:
            for provider_id in provider_ids:
                found[provider_id] = _record(provider_id, batch[provider_id], now_ms, self._checks_are_on)

        found: dict[int, Found] = {}
        try:
            found = await self._database.read(look)
            new = [provider_id for provider_id in batch if found[provider_id].is_new]
        except DomainError:
            raise
        except Exception:  # the fault of one row, which the write finds
            new = list(batch)
        if new:
            failed = await together(self._database, "a judgement", new, record, self._refused)
            known = {key: error for key, error in self._refused.items() if key not in batch}
            self._refused = known | failed
            found = {key: findings for key, findings in found.items() if key not in failed}
        for provider_id in new:
            if provider_id in found:
                _log(provider_id, found[provider_id].judgement)
        return found

    def _note(self, provider_id: int, found: Found | None, now_ms: int) -> None:
        """Applies what was found to the provider's place among the others, and to when it is judged again."""
        entry = self._fleet.judged.get(provider_id)
        if entry is None:
            return  # it fell silent meanwhile
        if found is None:
            entry.again_ms = now_ms + LEAST_MS
            return
        shared = VerdictReason.UUID_SHARED in found.judgement.reasons
        again_ms = now_ms + (AGAIN_SHARED_MS if shared else AGAIN_MS)
        entry.again_ms = min(again_ms, found.judgement.until_ms or again_ms)
        self._fleet.suspect(provider_id, found.judgement.verdict is Verdict.SUSPECT)

    def _note_shared(self, others: Sequence[int], now_ms: int) -> None:
        """Applies that another provider reports the GPUs of these."""
        for other in others:
            self._fleet.suspect(other, True)
            if other_entry := self._fleet.judged.get(other):
                other_entry.again_ms = min(other_entry.again_ms, now_ms + AGAIN_SHARED_MS)


def _is_due(before: Judged | None, current: Facts, now_ms: int) -> bool:
    if before is None:
        return True
    if before.facts != current:
        return now_ms >= before.judged_ms + LEAST_MS
    return now_ms >= before.again_ms


def _read(
    provider_id: int, current: Facts, now_ms: int, checks_are_on: bool
) -> tuple[ProviderRow, Found, int | None]:
    """The row, what is found by it, and when the set of GPUs changed. Inside a transaction."""
    row = providers.get(provider_id)
    assert row is not None, "a key belongs to a provider that does not exist"
    known, changed_ms = honesty.uuids(provider_id), row.gpus_changed_ms
    has_new = bool(current.uuids) and known != frozenset(current.uuids)
    if has_new and known:
        changed_ms = now_ms
    others = honesty.sharing(provider_id, current.uuids, now_ms - int(LIVE_SECONDS * 1000))
    history = History(
        row.claimed_gpu,
        changed_ms,
        bool(others),
        checks_are_on and not canaries.has_passed(provider_id),
        _proof(provider_id, current, now_ms) if checks_are_on and current.gpus else True,
        _speed(jobs.newest_of_provider(provider_id, RECORD_SIZE)) if current.gpus else None,
    )
    return row, Found(judge(current, history, now_ms), others, has_new), changed_ms


def _proof(provider_id: int, current: Facts, now_ms: int) -> bool | None:
    return proves(gpu_proofs.newest(provider_id), current.uuids, now_ms)


def _look(provider_id: int, current: Facts, now_ms: int, checks_are_on: bool) -> Found:
    """What is found on a provider, and whether there is anything to store. Inside a transaction."""
    row, found, _ = _read(provider_id, current, now_ms, checks_are_on)
    is_new = (
        found.is_new
        or not _is_stored(row, found.judgement)
        or (bool(found.others) and any(not _is_noted(other) for other in providers.by_ids(found.others)))
    )
    return replace(found, is_new=is_new)


def _record(provider_id: int, current: Facts, now_ms: int, checks_are_on: bool) -> Found:
    """Stores the verdict, the GPUs, and a verdict on each provider that shares them. Inside a transaction."""
    row, found, changed_ms = _read(provider_id, current, now_ms, checks_are_on)
    if found.is_new:
        honesty.replace_uuids(provider_id, current.uuids, changed_ms)
    if not _is_stored(row, found.judgement):
        honesty.set_verdict(provider_id, found.judgement.verdict, found.judgement.reasons, now_ms)
    for other in providers.by_ids(found.others) if found.others else ():
        if not _is_noted(other):
            reasons = [*other.verdict_reasons, VerdictReason.UUID_SHARED]
            honesty.set_verdict(other.id, Verdict.SUSPECT, reasons, now_ms)
    return found


def _log(provider_id: int, judgement: Judgement) -> None:
    reasons = ",".join(judgement.reasons) or "none"
    log.info("judged provider_id=%d verdict=%s reasons=%s", provider_id, judgement.verdict, reasons)


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
        tokens = job.completion_tokens
        if job.state is JobState.COMPLETED and tokens >= LEAST_TOKENS and job.bill and job.bill.billed_ms:
            speeds.append(tokens * 1000 / job.bill.billed_ms)
    return statistics.median(speeds) if len(speeds) >= LEAST_SPEEDS else None
