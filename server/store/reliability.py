"""The public history of a provider as rows: its ended attempts, newest first, and its track record.

Attempts are ordered by their end, then by their public number, which reveals nothing about the job.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import peewee as pw

from server.domain import reliability as rules
from server.domain.jobs import FailureReason, JobType
from server.domain.leases import LeaseOutcome
from server.domain.reliability import NO_RECORD, RECORD_SIZE, TrackRecord
from server.store import models as db
from server.store.leases import ENDED_ATTEMPT
from server.store.prepared import OfEach, PreparedQuery, arg

_newest = PreparedQuery(
    lambda: (
        db.Lease.select(db.Lease.outcome, db.Lease.failure_reason)
        .where(db.Lease.provider_id == arg("provider_id"), ENDED_ATTEMPT)
        .order_by(db.Lease.ended_ms.desc(), db.Lease.number.desc())
        .limit(arg("limit"))
    )
)
# The same query for each of several providers.
_ARM = (
    "SELECT provider_id, outcome, failure_reason FROM lease "  # noqa: S608  (the text is ours)
    f"WHERE provider_id = {{id}} AND {ENDED_ATTEMPT.sql} "
    f"ORDER BY ended_ms DESC, number DESC LIMIT {RECORD_SIZE}"
)
_newest_of_each = OfEach(_ARM)
_counts_of_each = OfEach(
    f"SELECT provider_id, outcome, failure_reason, COUNT(*) FROM ({_ARM}) AS newest "  # noqa: S608
    "GROUP BY provider_id, outcome, failure_reason"
)
# Providers of one statement.
BATCH = 200


@dataclass(frozen=True, slots=True)
class PastAttempt:
    """An ended attempt, with its public fields only. Times are in ms since 1970."""

    number: int
    job_type: JobType
    outcome: LeaseOutcome
    failure_reason: FailureReason | None
    accepted_ms: int | None
    started_ms: int | None
    ended_ms: int
    run_ms: int | None


def track_record(provider_id: int, size: int = RECORD_SIZE) -> TrackRecord:
    """The track record of a provider over its newest ``size`` attempts."""
    rows = _newest.all(provider_id=provider_id, limit=size)
    return rules.track_record((LeaseOutcome(outcome), _reason(reason)) for outcome, reason in rows)


Newest = list[tuple[LeaseOutcome, FailureReason | None]]


def newest(provider_ids: Collection[int]) -> dict[int, Newest]:
    """How the newest attempts of each of these providers ended, the newest first."""
    found: dict[int, Newest] = {id_: [] for id_ in provider_ids}
    for provider_id, outcome, reason in _newest_of_each.rows(found):
        found[provider_id].append((LeaseOutcome(outcome), _reason(reason)))
    return found


def track_records(provider_ids: Collection[int]) -> dict[int, TrackRecord]:
    """The track record of each of these providers; at most a page of providers."""
    return {id_: rules.track_record(attempts) for id_, attempts in newest(provider_ids).items()}


def lower_bounds(provider_ids: Sequence[int]) -> dict[int, float]:
    """The lower bound of the reliability of each of these providers, which may be many."""
    counts: dict[int, TrackRecord] = {}
    for first in range(0, len(provider_ids), BATCH):
        for provider_id, outcome, reason, count in _counts_of_each.rows(provider_ids[first : first + BATCH]):
            weight = rules.weight(LeaseOutcome(outcome), _reason(reason))
            counts[provider_id] = counts.get(provider_id, NO_RECORD).plus(weight, int(count))
    return {provider_id: counts.get(provider_id, NO_RECORD).lower for provider_id in provider_ids}


def page(provider_id: int, before: tuple[int, int] | None, limit: int) -> list[PastAttempt]:
    """The attempts of a provider, newest first, and older than ``before``, an attempt's end and number."""
    lease = db.Lease
    kind = db.Job.select(db.Job.job_type).where(db.Job.job_id == lease.job_id)
    query = lease.select(
        lease.number,
        kind.alias("job_type"),
        lease.outcome,
        lease.failure_reason,
        lease.accepted_ms,
        lease.started_ms,
        lease.ended_ms,
        lease.run_ms,
    ).where(lease.provider_id == provider_id, ENDED_ATTEMPT)
    if before is not None:
        # Compared as a pair, so that both databases find the position in the index.
        query = query.where(pw.Tuple(lease.ended_ms, lease.number) < pw.Tuple(*before))
    newest = query.order_by(lease.ended_ms.desc(), lease.number.desc()).limit(limit)
    return [
        PastAttempt(number, JobType(kind), LeaseOutcome(outcome), _reason(reason), *times)
        for number, kind, outcome, reason, *times in db.tuples(newest)
    ]


def _reason(name: str | None) -> FailureReason | None:
    return FailureReason(name) if name else None
