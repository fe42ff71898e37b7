"""Incidents, and what is read of the marketplace for them, as rows. Runs inside its caller's transaction."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import peewee as pw

from server.domain.incidents import Condition, Incident
from server.domain.jobs import JobState
from server.domain.providers import AccountState
from server.domain.withdrawals import OPEN as OPEN_WITHDRAWALS
from server.store import models as db
from server.store import states
from server.store.prepared import locking

MAX_COUNTED_MODELS = 1000
"""Most models that nobody serves whose jobs are counted."""
_COUNT = pw.fn.COUNT(pw.SQL("*"))


def standing() -> dict[Condition, Incident]:
    """What holds now, by condition, also what is not an incident yet."""
    rows = db.Incident.select().where(db.Incident.ended_ms.is_null())
    return {incident.condition: incident for incident in map(_incident, rows)}


def lock(condition: Condition) -> Incident | None:
    """What is stored of a condition that holds, locked until the transaction ends."""
    query = db.Incident.select().where(
        db.Incident.condition == condition.value, db.Incident.ended_ms.is_null()
    )
    row = locking(query).first()
    return _incident(row) if row is not None else None


def insert(incident: Incident) -> None:
    """Stores a condition that was seen now; does nothing if another server stored it meanwhile."""
    db.Incident.insert(**_columns(incident)).on_conflict_ignore().execute()


def store(incident: Incident) -> None:
    """Stores what became of a condition."""
    db.Incident.update(**_columns(incident)).where(db.Incident.id == incident.id).execute()


def forget(incident_id: int) -> None:
    """Deletes a condition that was gone before it was an incident."""
    db.Incident.delete().where(db.Incident.id == incident_id).execute()


def page(before_id: int | None, limit: int) -> list[Incident]:
    """One page of the incidents that have begun, newest first."""
    query = db.Incident.select().where(db.Incident.began_ms.is_null(False))
    if before_id is not None:
        query = query.where(db.Incident.id < before_id)
    return [_incident(row) for row in query.order_by(db.Incident.id.desc()).limit(limit)]


def any_ended_before(at_ms: int) -> bool:
    """Whether an incident ended before a time."""
    return bool(db.Incident.select().where(db.Incident.ended_ms < at_ms).exists())


def forget_ended_before(at_ms: int, limit: int) -> None:
    """Deletes incidents that ended before a time."""
    old = db.Incident.select(db.Incident.id).where(db.Incident.ended_ms < at_ms).limit(limit)
    db.Incident.delete().where(db.Incident.id.in_(old)).execute()


def unserved_models(waiting_since_ms: int, live_since_ms: int) -> list[tuple[str, int, int]]:
    """Models that no live provider serves and for which a job has waited since before a time.

    Each with the number of its jobs that name no provider, and when the oldest was submitted; those for which
    most wait come first.
    """
    job, oldest = db.Job, pw.fn.MIN(db.Job.created_ms)
    serving = (
        db.ProviderModel.select(pw.SQL("1"))
        .join(db.Provider, on=(db.Provider.id == db.ProviderModel.provider_id))
        .where(
            db.ProviderModel.name == job.model,
            db.Provider.last_heartbeat_ms > live_since_ms,
            states.is_in(db.Provider.state, AccountState.ACTIVE),
            ~db.Provider.draining,
        )
    )
    query = (
        job.select(job.model, _COUNT, oldest)
        .where(
            states.is_exactly(job.state, JobState.QUEUED),
            job.model.is_null(False),
            job.named_provider_id.is_null(),
            ~pw.fn.EXISTS(serving),
        )
        .group_by(job.model)
        .having(oldest <= waiting_since_ms)
        .order_by(_COUNT.desc(), job.model)
        .limit(MAX_COUNTED_MODELS)
    )
    return [(str(model), int(jobs), int(oldest_ms)) for model, jobs, oldest_ms in db.tuples(query)]


def waiting_payouts(since_ms: int) -> tuple[int, int, int | None]:
    """Number and sum in micros of withdrawal requests that are open since before a time; the oldest's."""
    row = db.Withdrawal
    query = row.select(
        pw.fn.COUNT(row.id), pw.fn.COALESCE(pw.fn.SUM(row.amount_micros), 0), pw.fn.MIN(row.created_ms)
    ).where(states.is_in(row.state, *OPEN_WITHDRAWALS), row.created_ms <= since_ms)
    for requests, amount_micros, oldest_ms in db.tuples(query):
        return int(requests), int(amount_micros), None if oldest_ms is None else int(oldest_ms)
    raise AssertionError("an aggregate has one row")


def away_since(since_ms: int, live_ms: int) -> int:
    """How many active providers without a session had a heartbeat after a time, and none since ``live_ms``.

    One whose heartbeats come by POST has no session, and is there while they come.
    """
    query = db.Provider.select().where(
        pw.SQL("NOT connected"),
        db.Provider.last_heartbeat_ms > since_ms,
        db.Provider.last_heartbeat_ms <= live_ms,
        states.is_in(db.Provider.state, AccountState.ACTIVE),
    )
    return int(query.count())


def _columns(incident: Incident) -> dict[str, Any]:
    values = {each.name: getattr(incident, each.name) for each in fields(incident) if each.name != "id"}
    return values | {"condition": incident.condition.value, "facts": json.dumps(dict(incident.facts))}


def _incident(row: Any) -> Incident:
    values = {each.name: getattr(row, each.name) for each in fields(Incident)}
    return Incident(**values | {"condition": Condition(row.condition), "facts": json.loads(row.facts)})
